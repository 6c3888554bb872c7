package netcfg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Userspace is the program that serves WireGuard devices where the kernel has
// none. It outlives this process: a session does not end with nodeagent's.
type Userspace interface {
	// Device names the device that the program is set up for, running or not; ""
	// where it is not set up. It changes nothing.
	Device() (string, error)
	// Start makes the program serve the device, with nothing configured, and
	// returns once it answers.
	Start(ctx context.Context, device string) error
	// Stop ends the program, and the device with it. It is no error where there
	// is none.
	Stop(ctx context.Context) error
}

// kernelWireGuard tells whether the running kernel has WireGuard: in it, loaded,
// or as a module that it would load (modprobe(8)'s lists). Nothing is tried: to
// make a device, and even to ask for its netlink family, loads the module.
func kernelWireGuard() bool {
	if _, err := os.Stat("/sys/module/wireguard"); err == nil {
		return true
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return true // then the attempt will tell
	}
	for _, modules := range []string{"/lib/modules", "/run/booted-system/kernel-modules/lib/modules"} { // the second on NixOS
		folder := filepath.Join(modules, unix.ByteSliceToString(name.Release[:]))
		for _, list := range []string{"modules.builtin", "modules.dep"} {
			if lists(filepath.Join(folder, list), "/wireguard.ko") {
				return true
			}
		}
	}
	return false
}

// lists tells whether a line's first word, up to a colon, has the given last
// part, packed (.xz, .zst, .gz) or not.
func lists(path, part string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		file, _, _ := strings.Cut(lines.Text(), ":")
		for _, packed := range []string{"", ".xz", ".zst", ".gz"} {
			if strings.HasSuffix(file, part+packed) {
				return true
			}
		}
	}
	return false
}

// apply makes the device in the kernel if that is possible, whatever the lists of
// its modules said, and else starts the program.
func (o createWireGuard) apply(ctx context.Context, sys *System) error {
	if err := sys.stopProgram(ctx); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = o.name, linkGroup
	err := edit(ctx, func() error { return sys.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}) })
	switch {
	case errors.Is(err, unix.EEXIST):
		// Ours from an apply that was stopped, or somebody's that was made
		// meanwhile, which is then configured but not marked.
		link, err := sys.find(o.name)
		if err != nil || link.Attrs().Group != linkGroup {
			return err
		}
	case errors.Is(err, unix.EOPNOTSUPP):
		return sys.startUserspace(ctx, o.name, err)
	case err != nil:
		return fmt.Errorf("create wireguard device %q: %w", o.name, explain(err))
	}
	return sys.mark(ctx, o.name)
}

// startUserspace starts the program; lacks is what the kernel said.
func (sys *System) startUserspace(ctx context.Context, name string, lacks error) error {
	if sys.Userspace == nil {
		return fmt.Errorf("create wireguard device %q: this kernel has no WireGuard; load the module wireguard (add it to the kernel's modules in the spec), or run a userspace device of this name (nodeagent wireguard userspace %s): %w", name, name, lacks)
	}
	if err := edit(ctx, func() error { return sys.Userspace.Start(ctx, name) }); err != nil {
		return fmt.Errorf("create wireguard device %q in userspace, as this kernel has no WireGuard: %w", name, err)
	}
	return nil
}

// stopProgram removes a program of ours that is set up, so that it does not come
// back and take the device's name.
func (sys *System) stopProgram(ctx context.Context) error {
	if sys.Userspace == nil {
		return nil
	}
	device, err := sys.Userspace.Device()
	if err == nil && device != "" {
		err = edit(ctx, func() error { return sys.Userspace.Stop(ctx) })
	}
	if err != nil {
		return fmt.Errorf("stop the wireguard program: %w", err)
	}
	return nil
}

func (stopWireGuardProgram) apply(ctx context.Context, sys *System) error {
	return sys.stopProgram(ctx)
}

func (o deleteWireGuard) apply(ctx context.Context, sys *System) error {
	if o.keep {
		all := func(wgtypes.Key) bool { return true }
		if err := edit(ctx, func() error { return keepPreshared(o.folder, o.name, all) }); err != nil {
			return err
		}
	}
	if err := sys.stopProgram(ctx); err != nil {
		return err
	}
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	for _, l := range kernel.list {
		if l.Attrs().Name != o.name {
			continue
		}
		if !ourDevice(l) {
			return fmt.Errorf("delete wireguard device %q: it is not nodeagent's any more; plan again", o.name)
		}
		if err := edit(ctx, func() error { return sys.nl.LinkDel(l) }); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete wireguard device %q: %w", o.name, explain(err))
		}
	}
	return nil
}
