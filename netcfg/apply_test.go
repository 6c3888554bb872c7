package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func TestConvergeFromNothingAndBack(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	before := dumpNetwork(t)
	sys := open(t)

	got := printed(converge(t, sys, Want(mercury())))
	want := `create link br0 [quiet] "" -> "bridge, mtu 1450, up": the spec names it and the host lacks it
create link vhost [quiet] "" -> "veth to vpod, mtu 1450, up": the spec names it and the host lacks it
create link vpod [quiet] "" -> "veth to vhost, master br0, mtu 1450, up": it is made with its other end vhost
create address 10.20.0.1/24 on br0 [quiet] "" -> "10.20.0.1/24": the spec names it and the host lacks it
create address 192.0.2.10/24 on lan0 [quiet] "" -> "192.0.2.10/24": the spec names it and the host lacks it
create address 2001:db8::10/64 on lan0 [quiet] "" -> "2001:db8::10/64": the spec names it and the host lacks it
create route 198.51.100.1/32 [quiet] "" -> "198.51.100.1 dev lan0": the spec names it and the host lacks it
create route 0.0.0.0/0 [quiet] "" -> "default via 198.51.100.1 dev lan0": the spec names it and the host lacks it
create route 10.99.0.0/16 metric 50 [quiet] "" -> "10.99.0.0/16 via 10.20.0.254 dev br0 metric 50": the spec names it and the host lacks it
create route ::/0 [quiet] "" -> "default via 2001:db8::1 dev lan0": the spec names it and the host lacks it
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan of a bare host (-want +got):\n%s", diff)
	}
	for _, name := range []string{"br0", "vpod", "vhost"} {
		if a := linkNamed(t, name).Attrs(); a.Alias != LinkAlias || a.Group != 0 {
			t.Errorf("link %s has alias %q and group %d, want %q and 0", name, a.Alias, a.Group, LinkAlias)
		}
	}

	converge(t, sys, Want(&hosts.Spec{Name: "mercury"}))
	if diff := cmp.Diff(before, dumpNetwork(t)); diff != "" {
		t.Errorf("a spec that names nothing any more leaves (-before +after):\n%s", diff)
	}
}

func TestApplyTwiceIsHarmless(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys, want := open(t), Want(mercury())
	changes := converge(t, sys, want)
	once := dumpNetwork(t)
	must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
	if diff := cmp.Diff(once, dumpNetwork(t)); diff != "" {
		t.Errorf("applying the same changes again (-once +twice):\n%s", diff)
	}
	changes = converge(t, sys, State{})
	must(t, sys.Apply(t.Context(), deletions(changes), plan.Silent{}))
}

// deletions leaves out the changes that name a link which is gone by then.
func deletions(changes []plan.Change) []plan.Change {
	var kept []plan.Change
	for _, c := range changes {
		if a, ok := c.Payload.(deleteAddress); !ok || a.link == "lan0" {
			kept = append(kept, c)
		}
	}
	return kept
}

// TestPlanWritesNothing proves it twice: the kernel reports no event while a
// plan is made, and looks the same afterwards.
func TestPlanWritesNothing(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	converge(t, sys, Want(mercury()))
	other := mercury()
	other.Network.Links = other.Network.Links[1:]
	other.Network.Routes = other.Network.Routes[1:2]
	must(t, netlink.LinkSetMTU(linkNamed(t, "br0"), 1400))

	signal, err := sys.Watch(t.Context())
	must(t, err)
	before := settled(t, signal)
	if changes := diffNow(t, sys, Want(other)); len(changes) < 5 {
		t.Fatalf("the plan under test is too small:\n%s", printed(changes))
	}
	select {
	case <-signal:
		t.Error("planning made the kernel report a change")
	default:
	}
	if diff := cmp.Diff(before, dumpNetwork(t)); diff != "" {
		t.Errorf("planning changed the host (-before +after):\n%s", diff)
	}
}

func TestWhatIsSomebodysStays(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}))
	must(t, netlink.LinkSetAlias(linkNamed(t, "docker0"), "nodeagents-not"))
	must(t, netlink.LinkSetMaster(linkNamed(t, "lan1"), linkNamed(t, "docker0")))
	must(t, netlink.LinkSetUp(linkNamed(t, "docker0")))
	somebodysAddress(t, "lan0", "203.0.113.7/24")
	somebodysAddress(t, "lan0", "2001:db8:7::7/64")
	somebodysAddress(t, "docker0", "172.17.0.1/16")
	somebodysAddress(t, "lan1", "172.18.0.1/16")
	somebodysRoute(t, "lan0", "0.0.0.0/0", "203.0.113.1", 100, 16)
	somebodysRoute(t, "docker0", "172.30.0.0/16", "", 0, 3)
	sys := open(t)
	before := dumpNetwork(t)

	spec := mercury()
	// lan1 without a master in the spec stays somebody's port.
	spec.Network.Links = append(spec.Network.Links, hosts.Link{
		Name: "lan1", Kind: hosts.LinkPhysical,
		Addresses: hosts.Plain(netip.MustParsePrefix("172.18.0.1/16")),
	})
	converge(t, sys, Want(spec))
	after := dumpNetwork(t)
	for line := range strings.Lines(before) {
		if !strings.Contains(after, strings.TrimSpace(line)) {
			t.Errorf("converge changed what is somebody else's: %s", line)
		}
	}
	converge(t, sys, State{})
	if diff := cmp.Diff(before, dumpNetwork(t)); diff != "" {
		t.Errorf("there and back (-before +after):\n%s", diff)
	}
}

// TestFirewallAmongTheRest: up before anything is deleted, gone when the spec
// drops it.
func TestFirewallAmongTheRest(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	converge(t, sys, Want(mercury()))
	spec := mercury()
	spec.Firewall.Enabled = true
	spec.Network.Links = spec.Network.Links[1:2]
	spec.Network.Routes = spec.Network.Routes[1:2]
	changes := converge(t, sys, Want(spec))
	firewall := slices.IndexFunc(changes, func(c plan.Change) bool { return c.Key == "firewall" })
	deletion := slices.IndexFunc(changes, func(c plan.Change) bool { return c.Action == plan.ActionDelete })
	if firewall < 0 || deletion < firewall {
		t.Errorf("want the firewall before deletions, got\n%s", printed(changes))
	}
	if changes := converge(t, sys, State{}); changes[0].Key != "firewall" {
		t.Errorf("plan is\n%s", printed(changes))
	}
}

// TestKilledBetweenAnyTwoWrites stops Apply after each number of steps, on the
// way from one spec to another that changes all sorts of things, and then lets
// a fresh converge finish.
func TestKilledBetweenAnyTwoWrites(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	other := &hosts.Spec{Name: "mercury", Network: hosts.Network{
		Links: []hosts.Link{
			{Name: "br1", Kind: hosts.LinkBridge, Addresses: hosts.Plain(prefix("10.20.0.1/24"), prefix("10.20.0.2/24"))},
			{Name: "vpod", Kind: hosts.LinkVeth, Peer: "vnew", Master: "br1"}, // another other end: made anew
			{Name: "lan0", Kind: hosts.LinkPhysical, MTU: 1400, Addresses: hosts.Plain(prefix("192.0.2.11/24"), prefix("2001:db8::10/48"))},
		},
		Routes: []hosts.Route{
			{Destination: prefix("0.0.0.0/0"), Via: addr("192.0.2.1")},
			{Destination: prefix("10.99.0.0/16"), Via: addr("10.20.0.254"), Metric: 50},
		},
	}}
	for _, c := range []struct {
		name     string
		from, to State
	}{
		{"from nothing", State{}, Want(mercury())},
		{"to another spec", Want(mercury()), Want(other)},
		{"to nothing", Want(other), State{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			steps := 0
			for killed := true; killed; steps++ {
				t.Run(fmt.Sprint("after ", steps), func(t *testing.T) { // a namespace each
					killed = false // also where a failure ends the test
					killed = killedAfter(t, steps, c.from, c.to)
				})
			}
			if steps < 10 {
				t.Errorf("only %d steps; the case is too small", steps)
			}
		})
	}
}

// killedAfter tells whether Apply was stopped before its end.
func killedAfter(t *testing.T, steps int, from, to State) bool {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	converge(t, sys, from)
	changes := diffNow(t, sys, to)
	err := sys.Apply(countdown(t.Context(), steps), changes, plan.Silent{})
	killed := errors.Is(err, context.Canceled)
	if err != nil && !killed {
		t.Errorf("apply, to be stopped after %d steps: %v", steps, err)
	}
	converge(t, sys, to)
	for _, w := range to.Links {
		if a := linkNamed(t, w.Name).Attrs(); w.Owned && (a.Alias != LinkAlias || a.Group != 0) {
			t.Errorf("link %s has alias %q and group %d, want %q and 0", w.Name, a.Alias, a.Group, LinkAlias)
		}
	}
	if got := setting(t, "/proc/sys/net/ipv4/conf/lan0/promote_secondaries"); got != "0" {
		t.Errorf("promote_secondaries of lan0 is %s afterwards, want 0 as before", got)
	}
	return killed
}

func setting(t testing.TB, path string) string {
	t.Helper()
	assertApart(t)
	value, err := os.ReadFile(path)
	must(t, err)
	return strings.TrimSpace(string(value))
}

func TestErrorsSayWhatToDo(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "br7", "wire7")
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	lan0 := hosts.Link{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(prefix("192.0.2.10/24"))}
	for _, c := range []struct {
		name string
		net  hosts.Network
		want []string
	}{
		{
			"a physical link that is not there",
			hosts.Network{Links: []hosts.Link{{Name: "eno1", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(prefix("192.0.2.9/24"))}}},
			[]string{`create link eno1: link "eno1" is not on this host; links found: br7 (`, "lan0 (", "wire7 ("},
		},
		{
			"a name that is taken",
			hosts.Network{Links: []hosts.Link{{Name: "br7", Kind: hosts.LinkBridge}}},
			[]string{`link "br7" is a veth to wire7 that nodeagent did not make; remove or rename it, or change the spec`},
		},
		{
			"another end that is taken",
			hosts.Network{Links: []hosts.Link{{Name: "v0", Kind: hosts.LinkVeth, Peer: "wire7"}}},
			[]string{"wire7", "nodeagent did not make; remove or rename it, or change the spec"},
		},
		{
			"a gateway that is nowhere",
			hosts.Network{Links: []hosts.Link{lan0}, Routes: []hosts.Route{{Destination: prefix("0.0.0.0/0"), Via: addr("203.0.113.1")}}},
			[]string{`add route "default via 203.0.113.1": network is unreachable`, "gateway 203.0.113.1 is on no network of this host"},
		},
		{
			"a source that is nobody's",
			hosts.Network{Links: []hosts.Link{lan0}, Routes: []hosts.Route{{Destination: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Source: addr("192.0.2.99")}}},
			[]string{"invalid argument", "the source must be an address of this host"},
		},
		{
			"a master that is none",
			hosts.Network{Links: []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Master: "br9"}}},
			[]string{`set master of link "lan0": find link "br9": it is not on this host`},
		},
		{
			"a bridge in a bridge",
			hosts.Network{Links: []hosts.Link{{Name: "brA", Kind: hosts.LinkBridge}, {Name: "brB", Kind: hosts.LinkBridge, Master: "brA"}}},
			[]string{"a bridge cannot be a port of a bridge"},
		},
		{
			"an MTU out of range",
			hosts.Network{Links: []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, MTU: 70000}}},
			[]string{`set mtu of link "lan0" to 70000`, "ip -d link show prints its minmtu and maxmtu"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			newNamespace(t)
			somebodysVeth(t, "lan0", "wire0")
			somebodysVeth(t, "br7", "wire7")
			sys, want := open(t), Want(&hosts.Spec{Network: c.net})
			err := sys.Apply(t.Context(), diffNow(t, sys, want), plan.Silent{})
			if err == nil {
				t.Fatal("apply met no error")
			}
			for _, text := range c.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error is\n%v\nwant in it\n%s", err, text)
				}
			}
			if len(diffNow(t, sys, want)) == 0 {
				t.Error("what failed is not in the next plan")
			}
		})
	}
}

func TestWithoutPrivilegesObserveWorksAndApplySaysRoot(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys, want := open(t), Want(mercury())
	// Of this thread alone, which ends with the test.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	must(t, unix.Capset(&header, &none[0]))

	have, err := sys.Observe(t.Context(), want)
	if err == nil || !strings.Contains(err.Error(), "firewall") || strings.Contains(err.Error(), "route") {
		t.Errorf("observe without privileges: %v, want an error that names the firewall alone", err)
	}
	if _, found := have.link("lan0"); !found {
		t.Error("observe without privileges did not see lan0")
	}
	changes := Diff(have, want)
	err = sys.Apply(t.Context(), changes, plan.Silent{})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "changing the network needs root (CAP_NET_ADMIN") {
		t.Errorf("apply without privileges: %v", err)
	}
	if _, err := sys.Watch(t.Context()); err != nil {
		t.Errorf("watch without privileges: %v", err)
	}
}
