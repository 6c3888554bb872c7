package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// wirePath is the file that the lab's network namespace is held by. It is in
// the lab's own folder, so that `ip netns` on the machine shows nothing new.
func (l *Lab) wirePath() string { return filepath.Join(l.dir, "wire") }

// makeWire makes the network namespace of the switches.
func (l *Lab) makeWire(ctx context.Context) error {
	if err := os.WriteFile(l.wirePath(), nil, 0o644); err != nil {
		return fmt.Errorf("make wire of lab %q: %w", l.state.Name, err)
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--net="+l.wirePath(), "true").CombinedOutput(); err != nil {
		return fmt.Errorf("make wire of lab %q: unshare: %w: %s", l.state.Name, err, out)
	}
	_, err := l.OnWire(ctx, "ip", "link", "set", "lo", "up")
	return err
}

// removeWire lets go of the namespace; the kernel removes its bridges with it.
func (l *Lab) removeWire() error {
	err := unix.Unmount(l.wirePath(), unix.MNT_DETACH)
	// EINVAL: not mounted; ENOENT: never made. Either way nothing is left.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove wire: unmount %s: %w", l.wirePath(), err)
	}
	return nil
}

// OnWire runs a command of the machine in the namespace of the switches, and
// returns its standard output. It fails if that namespace is not there.
func (l *Lab) OnWire(ctx context.Context, args ...string) (string, error) {
	var wire, own unix.Stat_t
	if err := unix.Stat(l.wirePath(), &wire); err != nil {
		return "", fmt.Errorf("run %q on the wire: %w", strings.Join(args, " "), err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return "", fmt.Errorf("run %q on the wire: %w", strings.Join(args, " "), err)
	}
	// The file lies on the namespace file system only while it is mounted.
	if wire.Dev != own.Dev || wire.Ino == own.Ino {
		return "", fmt.Errorf("run %q on the wire: %s holds no network namespace of the lab", strings.Join(args, " "), l.wirePath())
	}
	return output(exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + l.wirePath(), "--"}, args...)...))
}

// AddSwitch makes a bridge that hosts can be plugged into. Addresses, if any,
// are the bridge's own, for a peer of the hosts that the test plays itself.
func (l *Lab) AddSwitch(ctx context.Context, name string, addresses ...netip.Prefix) error {
	if len(name) == 0 || len(name) > 10 {
		return fmt.Errorf("add switch %q: the name must have 1 to 10 characters, an interface name has room for no more", name)
	}
	commands := [][]string{
		{"ip", "link", "add", "br-" + name, "type", "bridge"},
		{"ip", "link", "set", "br-" + name, "up"},
	}
	for _, address := range addresses {
		commands = append(commands, []string{"ip", "address", "add", address.String(), "dev", "br-" + name})
	}
	for _, command := range commands {
		if _, err := l.OnWire(ctx, command...); err != nil {
			return fmt.Errorf("add switch %q: %w", name, err)
		}
	}
	return nil
}

// plug connects the outer end of a host's link to its switch.
func (l *Lab) plug(ctx context.Context, outer, name string) error {
	if _, err := l.OnWire(ctx, "ip", "link", "set", outer, "master", "br-"+name, "up"); err != nil {
		return fmt.Errorf("plug %s into switch %q: %w", outer, name, err)
	}
	return nil
}

// output runs a command and returns its standard output; its error carries
// the last of both streams.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(stdout.String())
		}
		return stdout.String(), fmt.Errorf("%w: %s", err, last(said, 2000))
	}
	return stdout.String(), nil
}

// last is the end of a text, cut at n bytes.
func last(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return "…" + text[len(text)-n:]
}
