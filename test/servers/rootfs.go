package servers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// suite is the Debian release of the lab's hosts.
const suite = "bookworm"

// hostPackages are the Debian packages of a lab host beside Debian's minimal
// base: what a rented server comes with, what the kubelet and containerd call,
// and tools to look around with.
var hostPackages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "kmod", // a server's own
	"iproute2", "nftables", "iputils-ping", "procps", "ethtool", "ca-certificates",
	"iptables", "conntrack", "socat", // called by the kubelet and kube-proxy
	"runc", "containernetworking-plugins", // called by containerd
	"openssh-server",   // off; for tests that come in as a person would
	"systemd-resolved", // off; for tests of a host that resolves names by it
}

// RootFS is a folder with the root file system that lab hosts are copied
// from, found or made with debootstrap. It needs root.
func (b *Builder) RootFS(ctx context.Context) (string, error) {
	key := rootFSKey()
	return b.cached(ctx, "rootfs", key, "Debian "+suite+" by debootstrap, about 2 minutes", func(dir string) error {
		if os.Geteuid() != 0 {
			return errors.New("make root folder of lab hosts: debootstrap needs root; run this as root")
		}
		mirror, err := debianMirror(ctx)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase",
			"--include="+strings.Join(hostPackages, ","), suite, dir, mirror)
		if err := b.run(cmd, "rootfs", "steps", "debootstrap"); err != nil {
			return err
		}
		return prepareRoot(dir)
	})
}

// rootFSKey names the root folder by everything that goes into it. Bump the
// number when prepareRoot changes.
func rootFSKey() string {
	sum := sha256.Sum256([]byte(fmt.Sprint(3, suite, runtime.GOARCH, hostPackages)))
	return suite + "-" + hex.EncodeToString(sum[:])[:16]
}

// debianMirror is the mirror that this machine's own apt is set up with, so
// that the lab needs no setting of its own and reaches nothing else.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(REPO_URI)", "Codename: "+suite, "Component: main", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its Debian mirror: %w", err)
	}
	mirror, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if mirror == "" {
		return "", fmt.Errorf("ask apt for its Debian mirror: no source for %s main; add one to apt's sources and run apt-get update", suite)
	}
	return mirror, nil
}

// prepareRoot does what is the same for every host.
func prepareRoot(dir string) error {
	// systemd-resolved's package makes a link of it, which must not be followed.
	if err := os.Remove(filepath.Join(dir, "etc/resolv.conf")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("prepare root folder: %w", err)
	}
	for name, content := range map[string]string{
		// minbase brings none; components look up localhost.
		"etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
		// Made new at each host's first boot.
		"etc/machine-id": "",
		// No name server: nothing leaves the lab.
		"etc/resolv.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("prepare root folder: %w", err)
		}
	}
	for _, pattern := range []string{
		"var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "etc/hostname",
		// A test that wants the SSH server or the resolver starts it.
		"etc/systemd/system/multi-user.target.wants/ssh.service", "etc/systemd/system/sshd.service",
		"etc/systemd/system/*.target.wants/systemd-resolved.service", "etc/systemd/system/dbus-org.freedesktop.resolve1.service",
	} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("prepare root folder: %w", err)
		}
		for _, file := range files {
			if err := os.RemoveAll(file); err != nil {
				return fmt.Errorf("prepare root folder: %w", err)
			}
		}
	}
	// Services of a server that a lab host has no use for, and that would
	// wait for hardware or the network.
	for _, unit := range []string{"systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer"} {
		mask := filepath.Join(dir, "etc/systemd/system", unit)
		if err := os.Symlink("/dev/null", mask); err != nil {
			return fmt.Errorf("prepare root folder: %w", err)
		}
	}
	return nil
}
