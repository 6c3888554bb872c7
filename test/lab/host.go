package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// HostOptions say what a host has beside its operating system.
type HostOptions struct {
	Name  string
	Links []Link
	Binds []Bind
}

// A Link is a network interface of a host, plugged into a switch.
type Link struct {
	Name   string `json:"name"`   // of the interface, as the host sees it
	Switch string `json:"switch"` // made by AddSwitch
}

// A Bind is a folder of the machine that the host sees, read-only.
type Bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// A Host is one machine of the lab. It survives being switched off: its root
// folder stays as it was left. Its methods are not for concurrent use, except
// Exec and Dial.
type Host struct {
	lab       *Lab
	name      string
	links     []Link
	binds     []Bind
	container process // systemd-nspawn; zero while off
	leader    process // the host's process 1; zero while off
}

// How long a host may take to come up and to go down. A shutdown waits for
// the kubelet's graceful termination of pods.
const (
	bootTimeout     = 60 * time.Second
	poweroffTimeout = 2 * time.Minute
	killTimeout     = 30 * time.Second
)

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// AddHost makes a host with a bare Debian as its root folder. It is off.
func (l *Lab) AddHost(ctx context.Context, options HostOptions) (*Host, error) {
	if !hostName.MatchString(options.Name) {
		return nil, fmt.Errorf("add host %q: not a host name", options.Name)
	}
	if l.Host(options.Name) != nil {
		return nil, fmt.Errorf("add host %q: the lab has one of this name", options.Name)
	}
	h := &Host{lab: l, name: options.Name, links: options.Links, binds: options.Binds}
	l.hosts = append(l.hosts, h)
	if err := l.save(); err != nil {
		return nil, err
	}
	if err := h.makeRoot(ctx); err != nil {
		return nil, fmt.Errorf("add host %q: %w", options.Name, err)
	}
	return h, nil
}

// makeRoot gives the host a fresh root folder.
func (h *Host) makeRoot(ctx context.Context) error {
	base, err := h.lab.Builder.RootFS(ctx)
	if err != nil {
		return err
	}
	// A copy and not an overlay: containerd makes overlays below /var/lib,
	// and an overlay cannot be the upper layer of another.
	if _, err := output(exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", base, h.Root())); err != nil {
		return fmt.Errorf("copy root folder: %w", err)
	}
	return h.installPreparation()
}

// Reset kills the host and gives it a fresh root folder; it is off then.
func (h *Host) Reset(ctx context.Context) error {
	if err := h.Kill(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(h.Root()); err != nil {
		return fmt.Errorf("reset host %q: %w", h.name, err)
	}
	if err := h.makeRoot(ctx); err != nil {
		return fmt.Errorf("reset host %q: %w", h.name, err)
	}
	return nil
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Root is the host's root folder as the machine sees it, whether the host runs
// or not. What the host mounts (/proc, /sys, /dev, /run, /tmp) is not in it.
// Use it to look; PutFile and GetFile never follow a symbolic link out of it.
func (h *Host) Root() string { return filepath.Join(h.lab.dir, h.name+".root") }

// Console is the file with what the host wrote to its console, at all boots.
func (h *Host) Console() string { return filepath.Join(h.lab.dir, h.name+".console") }

// Running tells whether the host is switched on.
func (h *Host) Running() bool { return h.leader.alive() }

// machine is the host's name among all labs of the machine.
func (h *Host) machine() string { return cmp.Or(h.lab.state.ID, h.lab.state.Name) + "-" + h.name }

func (h *Host) state() hostState {
	return hostState{Name: h.name, Links: h.links, Binds: h.binds, Container: h.container, Leader: h.leader}
}

// Boot switches the host on and waits until its systemd has started all units
// of the boot. Failed units do not make it an error: nodeagent may be what the
// test breaks.
func (h *Host) Boot(ctx context.Context) error { return h.bootUntil(ctx, "running", "degraded") }

// SwitchOn is Boot that does not wait for the boot's units: some of them may
// wait for what the test does next.
func (h *Host) SwitchOn(ctx context.Context) error {
	return h.bootUntil(ctx, "running", "degraded", "starting")
}

// bootUntil boots until systemd says that it is in one of the states.
func (h *Host) bootUntil(ctx context.Context, states ...string) error {
	if h.Running() {
		return fmt.Errorf("boot host %q: it is running", h.name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("no boot within %s; see %s", bootTimeout, h.Console()))
	defer cancel()
	if err := h.boot(ctx, states...); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		return fmt.Errorf("boot host %q: %w", h.name, errors.Join(err, h.Kill(cleanup)))
	}
	return nil
}

func (h *Host) boot(ctx context.Context, states ...string) error {
	if err := h.makeCgroups(); err != nil {
		return err
	}
	if err := h.start(); err != nil {
		return err
	}
	if err := Until(ctx, "the host's process 1", h.findLeader); err != nil {
		return err
	}
	if err := h.lab.save(); err != nil {
		return err
	}
	for i, link := range h.links {
		// On a busy machine process 1 is seen before nspawn has made the links.
		err := Until(ctx, "the host's link "+link.Name, func(ctx context.Context) error {
			return h.lab.plug(ctx, h.outerName(i), link.Switch)
		})
		if err != nil {
			return err
		}
	}
	return Until(ctx, "the host's systemd to finish the boot", func(ctx context.Context) error {
		// --wait is not used: it fails while systemd's own socket is not up.
		out, err := h.Exec(ctx, "systemctl", "is-system-running")
		state := strings.TrimSpace(out)
		if slices.Contains(states, state) {
			return nil
		}
		return errors.Join(fmt.Errorf("systemd says %q", state), err)
	})
}

// start starts systemd-nspawn for the host, in the lab's network namespace and
// the host's control groups.
func (h *Host) start() error {
	console, err := os.OpenFile(h.Console(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()
	// The shell joins the control groups, then becomes nsenter, which becomes
	// systemd-nspawn: it is one process under one id all along. Started inside
	// the wire, nspawn makes the outer ends of the links there, and none ever
	// appears in the machine's own network namespace.
	script := `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	args := append([]string{"-c", script, "join"}, h.cgroups()...)
	args = append(args, "--", "nsenter", "--net="+h.lab.wirePath(), "--")
	cmd := exec.Command("sh", append(args, h.nspawn()...)...)
	cmd.Stdout, cmd.Stderr = console, console
	// nspawn's seccomp filter would stop the containers inside the host.
	cmd.Env = append(os.Environ(), "SYSTEMD_SECCOMP=0")
	// A session of its own: a Ctrl-C for the test must not reach the host
	// before the test has had its say.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start systemd-nspawn: %w", err)
	}
	h.container, err = identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reaped; how it went is seen by its absence
	return errors.Join(err, h.lab.save())
}

func (h *Host) nspawn() []string {
	args := []string{
		"systemd-nspawn", "--quiet", "--boot",
		"--directory=" + h.Root(), "--machine=" + h.machine(), "--hostname=" + h.name,
		// There is no systemd on the machine to register with.
		"--register=no", "--keep-unit",
		"--private-network", "--capability=all", "--console=pipe",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--bind=/dev/net/tun", // for user space WireGuard
		"--bind=/dev/kmsg",    // the kubelet watches it for the OOM killer
		// The kernel's modules are the machine's; nspawn leaves them out of the
		// host's /sys.
		"--bind-ro=/sys/module",
	}
	for i, link := range h.links {
		args = append(args, fmt.Sprintf("--network-veth-extra=%s:%s", h.outerName(i), link.Name))
	}
	for _, bind := range append(modules(), h.binds...) {
		args = append(args, "--bind-ro="+bind.From+":"+bind.To)
	}
	return args
}

// outerName is the name on the wire of the host's i-th link. Names of
// interfaces have at most 15 bytes, host names may have more, so it counts.
func (h *Host) outerName(i int) string {
	for n, other := range h.lab.hosts {
		if other == h {
			return fmt.Sprintf("h%d-%d", n, i)
		}
	}
	panic("lab: host " + h.name + " is not in its own lab")
}

// Poweroff shuts the host down in good order and waits until it is off.
func (h *Host) Poweroff(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, poweroffTimeout, fmt.Errorf("still running after %s; see %s", poweroffTimeout, h.Console()))
	defer cancel()
	if _, err := h.Exec(ctx, "systemctl", "poweroff"); err != nil {
		return fmt.Errorf("power off host %q: %w", h.name, err)
	}
	if err := h.awaitEnd(ctx); err != nil {
		return fmt.Errorf("power off host %q: %w", h.name, err)
	}
	return h.removeRemains(ctx)
}

// Reboot is Poweroff and Boot: the same root folder, everything else new.
func (h *Host) Reboot(ctx context.Context) error {
	if err := h.Poweroff(ctx); err != nil {
		return err
	}
	return h.Boot(ctx)
}

// Kill ends every process of the host at once, as a power cut does (but what
// was written and not yet synced is kept: the machine's own cache lives on).
// A host that is off is left so, without an error.
func (h *Host) Kill(ctx context.Context) error {
	// Process 1 of a process namespace takes all others with it.
	for _, p := range []process{h.leader, h.container} {
		if p.alive() {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill host %q: process %d: %w", h.name, p.PID, err)
			}
		}
	}
	if err := h.awaitEnd(ctx); err != nil {
		return fmt.Errorf("kill host %q: %w", h.name, err)
	}
	return h.removeRemains(ctx)
}

func (h *Host) awaitEnd(ctx context.Context) error {
	return Until(ctx, "the host's processes to end", func(context.Context) error {
		if h.leader.alive() || h.container.alive() {
			return errors.New("still there")
		}
		return nil
	})
}

// removeRemains removes what a host that is off leaves behind on the machine.
func (h *Host) removeRemains(ctx context.Context) error {
	if err := h.removeCgroups(ctx); err != nil {
		return err
	}
	// nspawn makes this folder and cannot always remove it.
	if err := os.Remove(filepath.Join("/run/systemd/nspawn/propagate", h.machine())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove remains of host %q: %w", h.name, err)
	}
	h.container, h.leader = process{}, process{}
	return h.lab.save()
}
