package kernel

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// values are all sysctls of a kernel of plain files.
func values(t *testing.T, sys *System, names ...string) map[string]string {
	t.Helper()
	v := map[string]string{}
	for _, name := range names {
		v[name] = normalise(read(t, sys, name))
	}
	return v
}

// TestBackIsExact makes changes that write over other sysctls, as the kernel
// does, and goes back: every value is as it was, the originals too, whoever had
// set them.
func TestBackIsExact(t *testing.T) {
	sys := files(t, map[string]string{
		"proc/sys/net/ipv4/ip_forward":                           "0\n",
		"proc/sys/net/ipv4/conf/all/forwarding":                  "0\n",
		"proc/sys/net/ipv4/conf/default/forwarding":              "0\n",
		"proc/sys/net/ipv4/conf/all/accept_redirects":            "1\n",
		"proc/sys/net/ipv4/conf/eth0.5/forwarding":               "1\n", // by hand
		"proc/sys/net/ipv4/conf/eth0.5/accept_redirects":         "0\n",
		"proc/sys/net/ipv6/conf/all/disable_ipv6":                "0\n",
		"proc/sys/net/ipv6/conf/eth0.5/disable_ipv6":             "1\n",
		"proc/sys/net/core/somaxconn":                            "4096\n",
		"proc/sys/net/ipv4/tcp_mtu_probing":                      "0\n",
		"proc/sys/vm/overcommit_memory":                          "0\n",
		"proc/sys/net/netfilter/nf_conntrack_max":                "65536\n",
		"proc/sys/net/ipv4/conf/eth0.5/rp_filter":                "2\n",
		"proc/sys/net/ipv4/neigh/default/gc_thresh3":             "1024\n",
		"proc/sys/net/ipv4/conf/default/accept_redirects":        "1\n",
		"proc/sys/net/ipv6/conf/default/disable_ipv6":            "0\n",
		"proc/sys/net/ipv4/conf/all/rp_filter":                   "0\n",
		"proc/sys/net/ipv4/ip_local_reserved_ports":              "\n",
		"proc/sys/net/ipv4/conf/eth0.5/arp_announce":             "0\n",
		"proc/sys/net/ipv4/conf/not-named-by-anybody/forwarding": "1\n",
	})
	converge(t, sys, hosts.Kernel{Sysctls: map[string]string{"net.core.somaxconn": "8192", "net.ipv4.tcp_mtu_probing": "1"}})
	spec := hosts.Kernel{Sysctls: map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.disable_ipv6": "1", "net.core.somaxconn": "16384",
		"vm.overcommit_memory": "1", "net.ipv4.ip_local_reserved_ports": "30000-32767",
	}} // and no longer tcp_mtu_probing
	originals, err := LoadOriginals(sys.Root)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Want(&hosts.Spec{Kernel: spec}, originals)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Back(t.Context(), sys, want)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range back.Sysctls {
		names = append(names, s.Name)
	}
	before := values(t, sys, names...)
	for _, name := range []string{"net.ipv4.conf.eth0/5.forwarding", "net.ipv4.conf.eth0/5.accept_redirects", "net.ipv6.conf.eth0/5.disable_ipv6", "net.ipv4.tcp_mtu_probing"} {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is not brought back", name)
		}
	}
	converge(t, sys, spec)
	for path, text := range map[string]string{ // what the kernel itself does
		"net/ipv4/conf/all/forwarding": "1\n", "net/ipv4/conf/default/forwarding": "1\n",
		"net/ipv4/conf/all/accept_redirects": "0\n", "net/ipv6/conf/eth0.5/disable_ipv6": "1\n",
	} {
		writeFile(t, filepath.Join(sys.Proc, "sys", path), text)
	}
	if maps.Equal(before, values(t, sys, names...)) {
		t.Fatal("the spec changed nothing")
	}
	kept, err := LoadOriginals(sys.Root)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second round mends what the first one's writes write over
		have, err := Observe(t.Context(), sys, back)
		if err != nil {
			t.Fatal(err)
		}
		if err := Apply(t.Context(), sys, DiffBack(have, back), plan.Silent{}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, values(t, sys, names...)); diff != "" {
		t.Errorf("after going back (-was +is):\n%s", diff)
	}
	after, err := LoadOriginals(sys.Root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kept, after); diff != "" {
		t.Errorf("going back changed the originals:\n%s", diff)
	}
	// While the spec is rejected, its network is held back and the rest is not.
	if want, err = Want(&hosts.Spec{Kernel: spec}, after); err != nil {
		t.Fatal(err)
	}
	held := want.Hold(back)
	have, err := Observe(t.Context(), sys, held)
	if err != nil {
		t.Fatal(err)
	}
	if left := Diff(have, held); len(left) > 0 {
		t.Errorf("held, and yet there is something to do: %v", left)
	}
	if read(t, sys, "vm.overcommit_memory") != "1" {
		t.Error("what is not the network's went back as well")
	}
	// A link that is gone takes its sysctls with it.
	have.Sysctls = have.Sysctls[:0]
	for _, s := range back.Sysctls {
		have.Sysctls = append(have.Sysctls, Sysctl{Name: s.Name})
	}
	if left := DiffBack(have, back); len(left) > 0 {
		t.Errorf("sysctls that are not there are to be set: %v", left)
	}
}
