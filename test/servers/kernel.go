package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// kernelPackage is the Debian package that depends on the newest cloud kernel:
// the smallest of Debian's that has everything as loadable modules.
const kernelPackage = "linux-image-cloud-amd64"

// Kernel is a folder with Debian's cloud kernel and its modules as the package
// has them (boot/vmlinuz-RELEASE, lib/modules/RELEASE), and with what depmod(8)
// writes about them. The version is the newest one that apt's lists name, and
// is part of the folder's name; where apt cannot tell or fetch it, the newest
// one in the cache serves.
func (b *Builder) Kernel(ctx context.Context) (string, error) {
	dir, err := b.newestKernel(ctx)
	if err == nil || ctx.Err() != nil {
		return dir, err
	}
	if kept := b.keptKernel(); kept != "" {
		fmt.Fprintf(b.Log, "  kernel: %v; using the one at hand, %s\n", err, filepath.Base(kept))
		return kept, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w; run apt-get update", err)
	}
	fmt.Fprintf(b.Log, "  kernel: %v; apt's package lists seem to be missing or old, updating them\n", err)
	if out, failed := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); failed != nil {
		return "", errors.Join(err, fmt.Errorf("apt-get update: %w\n%s", failed, out))
	}
	return b.newestKernel(ctx)
}

func (b *Builder) newestKernel(ctx context.Context) (string, error) {
	pkg, err := kernelDependency(ctx)
	if err != nil {
		return "", err
	}
	deb, err := packageFile(ctx, pkg)
	if err != nil {
		return "", err
	}
	key := strings.TrimSuffix(deb, ".deb")
	return b.cached(ctx, "kernel", key, "a download of 27 MB", func(dir string) error {
		return unpackKernel(ctx, pkg, dir)
	})
}

// KernelRelease is the release of the kernel in a folder that Kernel returned,
// as uname -r prints it.
func KernelRelease(dir string) (string, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(images) != 1 {
		return "", fmt.Errorf("find the kernel in %s: want one boot/vmlinuz-*, there are %d", dir, len(images))
	}
	return strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), nil
}

// keptKernel is the kernel that was made last, or "".
func (b *Builder) keptKernel() string {
	dirs, _ := filepath.Glob(filepath.Join(b.Cache, "kernel", "linux-image-*"))
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { return strings.HasSuffix(dir, ".building") })
	if len(dirs) == 0 {
		return ""
	}
	return slices.MaxFunc(dirs, func(a, b string) int { return modified(a).Compare(modified(b)) })
}

// kernelDependency asks apt which kernel the package stands for at present.
func kernelDependency(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "--important", kernelPackage).Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for the kernel behind %s: %w", kernelPackage, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("ask apt for the kernel behind %s: its lists name none", kernelPackage)
}

// packageFile is the name of the package's file, which has its version.
func packageFile(ctx context.Context, pkg string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "download", "-q", "--print-uris", pkg).Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for %s: %w", pkg, err)
	}
	fields := strings.Fields(string(out)) // 'address' file size hash
	if len(fields) < 2 || !strings.HasSuffix(fields[1], ".deb") {
		return "", fmt.Errorf("ask apt for %s: it answered %q", pkg, out)
	}
	return fields[1], nil
}

// unpackKernel fetches the package and unpacks it; nothing of it is installed.
// apt checks the download against its signed lists.
func unpackKernel(ctx context.Context, pkg, dir string) error {
	fetch := exec.CommandContext(ctx, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=", pkg)
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		return fmt.Errorf("fetch %s: %w\n%s", pkg, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	if len(debs) != 1 {
		return fmt.Errorf("fetch %s: apt-get download left %d packages", pkg, len(debs))
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w\n%s", pkg, err, out)
	}
	release, err := KernelRelease(dir)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "depmod", "-b", dir, release).CombinedOutput(); err != nil {
		return fmt.Errorf("list the modules of %s (depmod of the Debian package kmod): %w\n%s", pkg, err, out)
	}
	return os.Remove(debs[0])
}

// modified is when the file or folder was last changed, long ago where nobody
// can tell.
func modified(name string) time.Time {
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
