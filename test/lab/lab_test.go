package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// TestTwoHosts boots two hosts on one switch and uses them as tests do.
func TestTwoHosts(t *testing.T) {
	before := machineNetwork(t)
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("198.51.100.1/24")); err != nil {
		t.Fatal(err)
	}
	first, second := boot(ctx, t, l, "first", "198.51.100.11/24"), boot(ctx, t, l, "second", "198.51.100.12/24")

	t.Run("hosts reach each other", func(t *testing.T) {
		mustExec(ctx, t, first, "ping", "-c", "1", "-W", "5", "198.51.100.12")
		mustExec(ctx, t, second, "ping", "-c", "1", "-W", "5", "198.51.100.1")
	})

	t.Run("dial from inside and from the wire", func(t *testing.T) {
		// A systemd socket on the host answers with the host's name.
		put(t, second, "/etc/systemd/system/echo.socket", "[Socket]\nListenStream=198.51.100.12:7\nAccept=yes\nFreeBind=yes\n")
		put(t, second, "/etc/systemd/system/echo@.service", "[Service]\nExecStart=uname -n\nStandardOutput=socket\n")
		mustExec(ctx, t, second, "systemctl", "daemon-reload")
		mustExec(ctx, t, second, "systemctl", "start", "echo.socket")
		for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
			"host": first.Dial, "wire": l.DialWire,
		} {
			conn, err := dial(ctx, "tcp", "198.51.100.12:7")
			if err != nil {
				t.Fatalf("dial from the %s: %v", name, err)
			}
			said, err := io.ReadAll(conn)
			if string(said) != "second\n" {
				t.Errorf("dial from the %s: the service said %q (%v), want its host's name", name, said, err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("sysctls are the host's own", func(t *testing.T) {
		machine, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
		if err != nil {
			t.Fatal(err)
		}
		mustExec(ctx, t, first, "sysctl", "-w", "vm.overcommit_memory=2", "kernel.panic=17", "net.ipv4.ip_forward=1")
		if got := mustExec(ctx, t, first, "sysctl", "-n", "vm.overcommit_memory", "kernel.panic", "net.ipv4.ip_forward"); got != "2\n17\n1\n" {
			t.Errorf("the host reads back %q", got)
		}
		after, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
		if err != nil || string(after) != string(machine) {
			t.Errorf("the machine's vm.overcommit_memory went from %q to %q (%v)", machine, after, err)
		}
	})

	t.Run("files survive a reboot, processes do not", func(t *testing.T) {
		mustExec(ctx, t, first, "sh", "-c", "echo kept >/var/lib/kept; echo gone >/run/gone")
		old := mustExec(ctx, t, first, "cat", "/proc/sys/kernel/random/boot_id")
		if err := first.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
		if got := mustExec(ctx, t, first, "cat", "/var/lib/kept"); got != "kept\n" {
			t.Errorf("/var/lib/kept says %q after the reboot", got)
		}
		if out, err := first.Exec(ctx, "cat", "/run/gone"); err == nil {
			t.Errorf("/run/gone outlived the reboot: %q", out)
		}
		if got := mustExec(ctx, t, first, "cat", "/proc/sys/kernel/random/boot_id"); got == old {
			t.Errorf("the boot id is %q after the reboot too", got)
		}
	})

	t.Run("a command for a host that is off fails", func(t *testing.T) {
		if err := second.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		marker := filepath.Join(t.TempDir(), "marker")
		if out, err := second.Exec(ctx, "touch", marker); err == nil {
			t.Errorf("touch on a host that is off: no error, printed %q", out)
		}
		if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the command ran on the machine: %v", err)
		}
		if conn, err := second.Dial(ctx, "tcp", "127.0.0.1:22"); err == nil {
			t.Errorf("dial from a host that is off: connected to %v", conn.RemoteAddr())
		}
	})

	if after := machineNetwork(t); after != before {
		t.Errorf("the machine's network changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

// TestCloseLeavesNothing looks for a lab's traces while it lives, to show that
// the search finds them, and after it was closed.
func TestCloseLeavesNothing(t *testing.T) {
	lab.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before := machineNetwork(t)
	l, err := lab.Open(ctx, lab.Options{Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = l.Close(context.Background()) // a second time, at worst
		}
	})
	if err := l.AddSwitch(ctx, "lan"); err != nil {
		t.Fatal(err)
	}
	host := boot(ctx, t, l, "brief", "198.51.100.11/24")
	// A process that ignores a polite request must not stay behind.
	mustExec(ctx, t, host, "systemd-run", "sh", "-c", "trap '' TERM INT; while :; do sleep 1000; done")
	for kind, found := range traces(t, l.Name()) {
		if len(found) == 0 {
			t.Errorf("the search finds no %s of a lab that runs", kind)
		}
	}
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for kind, found := range traces(t, l.Name()) {
		if len(found) > 0 {
			t.Errorf("the lab left %s behind: %q", kind, found)
		}
	}
	if after := machineNetwork(t); after != before {
		t.Errorf("the machine's network changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
}

// TestAttach finds a lab again, as another process would, and closes it.
func TestAttach(t *testing.T) {
	lab.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	name := fmt.Sprintf("attach%d", os.Getpid())
	opened, err := lab.Open(ctx, lab.Options{Name: name, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = opened.Close(context.Background()) // a second time, at worst
		}
	})
	if err := opened.AddSwitch(ctx, "lan"); err != nil {
		t.Fatal(err)
	}
	boot(ctx, t, opened, "found", "198.51.100.11/24")
	found, err := lab.Attach(name, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	host := found.Host("found")
	if host == nil || !host.Running() {
		t.Fatalf("attached lab has host %v, want one that is running", host)
	}
	if got := mustExec(ctx, t, host, "uname", "-n"); got != "found\n" {
		t.Errorf("the host calls itself %q", got)
	}
	if err := found.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Attach(name, t.Output()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("attach after close: %v, want os.ErrNotExist", err)
	}
}

func boot(ctx context.Context, t *testing.T, l *lab.Lab, name, address string) *lab.Host {
	t.Helper()
	host, err := l.AddHost(ctx, lab.HostOptions{Name: name, Links: []lab.Link{{Name: "lan0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, host, "/etc/systemd/network/lan0.network", "[Match]\nName=lan0\n[Network]\nAddress="+address+"\nLinkLocalAddressing=no\n")
	put(t, host, "/etc/systemd/system-preset/10-lab.preset", "enable systemd-networkd.service\n")
	start := time.Now()
	if err := host.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("host %s: up after %s", name, time.Since(start).Round(time.Millisecond))
	mustExec(ctx, t, host, "systemctl", "enable", "--now", "systemd-networkd")
	err = lab.Until(ctx, "address "+address, func(ctx context.Context) error {
		out, err := host.Exec(ctx, "ip", "-br", "address", "show", "lan0")
		if err == nil && !strings.Contains(out, address) {
			err = fmt.Errorf("lan0 has %q", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func put(t *testing.T, host *lab.Host, name, content string) {
	t.Helper()
	if err := host.PutFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustExec(ctx context.Context, t *testing.T, host *lab.Host, args ...string) string {
	t.Helper()
	out, err := host.Exec(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// machineNetwork is what the machine's own network namespace holds.
func machineNetwork(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, args := range [][]string{{"link"}, {"address"}, {"route", "show", "table", "all"}, {"rule"}} {
		out, err := exec.Command("ip", append([]string{"-o"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "ip %s:\n%s", strings.Join(args, " "), out)
	}
	return all.String()
}

// traces is what of a lab can be found on the machine, by kind.
func traces(t *testing.T, name string) map[string][]string {
	t.Helper()
	found := map[string][]string{"mounts": nil, "processes": nil, "control groups": nil, "nspawn folders": nil, "files": nil}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, name) {
			found["mounts"] = append(found["mounts"], line)
		}
	}
	for kind, patterns := range map[string][]string{
		"control groups": {"/sys/fs/cgroup/*/nodeagent-lab-" + name + "*", "/sys/fs/cgroup/*/*/*/nodeagent-lab-" + name + "*"},
		"nspawn folders": {"/run/systemd/nspawn/propagate/" + name + "*"},
		"files":          {"../../.cache/lab/" + name, os.Getenv("NODEAGENT_CACHE") + "/lab/" + name},
	} {
		for _, pattern := range patterns {
			names, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			found[kind] = append(found[kind], names...)
		}
	}
	// A process that has ended has no command line, even while it waits to be
	// reaped by whoever inherited it.
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		command, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(command), name) {
			found["processes"] = append(found["processes"], string(command))
		}
	}
	return found
}
