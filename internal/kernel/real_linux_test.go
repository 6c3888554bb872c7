package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/test/apart"
)

// The sysctls of a network namespace are the kernel's own, and the test's.
func TestRealSysctls(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNET) {
		return
	}
	sys, err := Open(layout.Root(t.TempDir()))
	must(t, err)
	forward, ports := read(t, sys, "net.ipv4.ip_forward"), read(t, sys, "net.ipv4.ip_local_port_range")
	k := hosts.Kernel{Sysctls: map[string]string{
		"net.ipv4.ip_forward":                "1",
		"net.ipv4.conf.all.accept_redirects": "1", // ip_forward=1 clears it: the order matters
		"net/ipv4/conf/lo/rp_filter":         "2",
		"net.ipv4.ip_local_port_range":       "10000 60000",
		"net.ipv4.ip_local_reserved_ports":   "30000-32767",
		"net.ipv6.conf.all.forwarding":       "1",
	}}
	converge(t, sys, k)
	if got := read(t, sys, "net.ipv4.ip_local_port_range"); got != "10000\t60000" {
		t.Errorf("port range %q", got)
	}
	k.Sysctls["net.ipv4.ip_local_reserved_ports"] = ""
	converge(t, sys, k)
	converge(t, sys, hosts.Kernel{})
	if got := read(t, sys, "net.ipv4.ip_forward"); got != forward {
		t.Errorf("ip_forward %q, it was %q", got, forward)
	}
	if got := read(t, sys, "net.ipv4.ip_local_port_range"); got != ports {
		t.Errorf("port range %q, it was %q", got, ports)
	}
	k = hosts.Kernel{Sysctls: map[string]string{"net.ipv4.ip_forward": "many", "net.ipv4.ip_default_ttl": "65"}}
	err = Apply(t.Context(), sys, changes(t, sys, k), plan.Silent{})
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "net.ipv4.ip_forward") {
		t.Errorf("error %v, want one that the kernel refuses ip_forward", err)
	}
	if got := read(t, sys, "net.ipv4.ip_default_ttl"); got != "65" {
		t.Errorf("the refused sysctl stopped the next: ttl %q", got)
	}
}

func TestReadOnlySysctls(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting needs root")
		}
		t.Skip("mounting needs root")
	}
	sys := files(t, map[string]string{"proc/sys/a/one": "1\n"})
	dir := filepath.Join(sys.Proc, "sys")
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	k := hosts.Kernel{Sysctls: map[string]string{"a.one": "2"}}
	err := Apply(t.Context(), sys, changes(t, sys, k), plan.Silent{})
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "remount,rw") {
		t.Errorf("error %v, want one that says what to do about the read-only mount", err)
	}
}

// Recognition on the kernel that runs this test, whatever it is: what
// /proc/net or /proc/filesystems shows to be there must be seen.
func TestRealModules(t *testing.T) {
	sys, err := Open("")
	must(t, err)
	filesystems, err := os.ReadFile("/proc/filesystems")
	must(t, err)
	seen := 0
	for kind, module := range map[string]string{"overlay": "overlay", "fuse": "fuse", "ext4": "ext4", "xfs": "xfs"} {
		if !strings.Contains(string(filesystems), "\t"+kind+"\n") {
			continue
		}
		seen++
		if sys.presence(module) == Absent {
			t.Errorf("%s is in /proc/filesystems, the module %s is not seen", kind, module)
		}
	}
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		seen++
		if sys.presence("br_netfilter") == Absent {
			t.Error("/proc/sys/net/bridge is there, br_netfilter is not seen")
		}
	}
	if seen == 0 {
		t.Fatal("found nothing to recognise")
	}
	if sys.presence("nodeagent_no_such_module") != Absent {
		t.Error("a module that nobody made is seen")
	}
	k := hosts.Kernel{Modules: []hosts.Module{{Name: "nodeagent-no-such-module"}}}
	err = Apply(t.Context(), sys, changes(t, sys, k), plan.Silent{})
	if err == nil || !strings.Contains(err.Error(), "nodeagent_no_such_module") {
		t.Errorf("error %v, want one that names the module", err)
	}
}

// BenchmarkObserve is a first look at the kernel, which reads its whole
// configuration for a module that leaves no other trace.
func BenchmarkObserve(b *testing.B) {
	want, err := Want(&hosts.Spec{Kernel: hosts.Kernel{
		Modules: []hosts.Module{{Name: "br_netfilter"}, {Name: "overlay"}},
		Sysctls: map[string]string{"vm.overcommit_memory": "1", "kernel.panic": "10"},
	}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		sys, err := Open("")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Observe(b.Context(), sys, want); err != nil {
			b.Fatal(err)
		}
	}
}
