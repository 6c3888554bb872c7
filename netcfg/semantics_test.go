package netcfg

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// These tests pin what the kernel does where Diff and the edits count on it.

func physical(name string, addresses ...string) hosts.Link {
	l := hosts.Link{Name: name, Kind: hosts.LinkPhysical}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, hosts.Address{Prefix: netip.MustParsePrefix(a)})
	}
	return l
}

func network(links []hosts.Link, routes ...hosts.Route) State {
	return Want(&hosts.Spec{Network: hosts.Network{Links: links, Routes: routes}})
}

func observed(t *testing.T, sys *System, want State) State {
	t.Helper()
	have, err := sys.Observe(t.Context(), want)
	must(t, err)
	return have
}

func prefixesOf(t *testing.T, have State, link string) []string {
	t.Helper()
	l, ok := have.link(link)
	if !ok {
		t.Fatalf("link %s was not observed", link)
	}
	var prefixes []string
	for _, a := range l.Addresses {
		prefixes = append(prefixes, a.Prefix.String())
	}
	return prefixes
}

// TestDeletingAPrimaryAddressKeepsItsSecondaries with promote_secondaries off,
// as the kernel has it by itself: the secondaries are ours and somebody else's.
func TestDeletingAPrimaryAddressKeepsItsSecondaries(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	if got := setting(t, "/proc/sys/net/ipv4/conf/lan0/promote_secondaries"); got != "0" {
		t.Fatalf("promote_secondaries is %s at the start; the test proves nothing", got)
	}
	gateway := hosts.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")}
	converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/24")}, gateway))
	somebodysAddress(t, "lan0", "192.0.2.77/24")
	want := network([]hosts.Link{physical("lan0", "192.0.2.11/24")}, gateway)
	changes := converge(t, sys, want)
	if len(changes) != 2 || changes[0].Action != plan.ActionCreate || changes[1].Action != plan.ActionDelete {
		t.Errorf("want the new address added before the old is deleted, got\n%s", printed(changes))
	}
	if got := prefixesOf(t, observed(t, sys, want), "lan0"); !slices.Equal(got, []string{"192.0.2.11/24", "192.0.2.77/24"}) {
		t.Errorf("addresses are %v", got)
	}
	if got := setting(t, "/proc/sys/net/ipv4/conf/lan0/promote_secondaries"); got != "0" {
		t.Errorf("promote_secondaries is %s afterwards, want 0 as before", got)
	}
}

func TestPrefixLengthChanges(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	somebodysAddress(t, "lan0", "2001:db8::5/128")
	converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/24", "2001:db8::10/64")}))
	changes := converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/25", "2001:db8::10/48", "2001:db8::5/64")}))
	want := `create address 192.0.2.10/25 on lan0 [quiet] "" -> "192.0.2.10/25": the spec names it and the host lacks it
update address 2001:db8::5/64 on lan0 [disconnect] "2001:db8::5/128" -> "2001:db8::5/64": the spec wants prefix length 64; the address that is there is not nodeagent's
update address 2001:db8::10/48 on lan0 [disconnect] "2001:db8::10/64" -> "2001:db8::10/48": the spec wants prefix length 48
delete address 192.0.2.10/24 on lan0 [disconnect] "192.0.2.10/24" -> "": nodeagent made it and the spec no longer names it
`
	if got := printed(changes); got != want {
		t.Errorf("plan is\n%swant\n%s", got, want)
	}
}

// TestAddressesOnOwnLinks deletes what nobody claims and leaves what carries
// somebody's protocol or a lifetime, such as addresses of router advertisements.
func TestAddressesOnOwnLinks(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	want := network([]hosts.Link{{Name: "br0", Kind: hosts.LinkBridge, Addresses: hosts.Plain(netip.MustParsePrefix("10.0.0.1/24"))}})
	converge(t, sys, want)
	somebodysAddress(t, "br0", "10.0.9.1/24")
	leased, err := netlink.ParseAddr("10.0.8.1/24")
	must(t, err)
	leased.ValidLft, leased.PreferedLft = 3600, 3600
	must(t, netlink.AddrAdd(linkNamed(t, "br0"), leased))
	changes := converge(t, sys, want)
	if len(changes) != 1 || changes[0].Key != "address 10.0.9.1/24 on br0" {
		t.Errorf("plan is\n%swant the deletion of 10.0.9.1/24", printed(changes))
	}
	if got := prefixesOf(t, observed(t, sys, want), "br0"); !slices.Equal(got, []string{"10.0.0.1/24", "10.0.8.1/24"}) {
		t.Errorf("addresses are %v", got)
	}
}

func TestLosingTheLastAddressKeepsWantedRoutes(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	onLink := hosts.Route{Destination: netip.MustParsePrefix("10.9.0.0/16"), Device: "lan0"}
	converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/24")}, onLink))
	changes := converge(t, sys, network([]hosts.Link{physical("lan0")}, onLink))
	if len(changes) != 2 || changes[0].Action != plan.ActionDelete || changes[1].Action != plan.ActionCreate {
		t.Errorf("want the address deleted, then the route made again, got\n%s", printed(changes))
	}
}

func TestRouteOfSomebodyElse(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysAddress(t, "lan0", "192.0.2.10/24")
	somebodysRoute(t, "lan0", "0.0.0.0/0", "192.0.2.1", 0, 16)
	sys := open(t)
	spec := func(via string, metric int) State {
		return network([]hosts.Link{physical("lan0", "192.0.2.10/24")},
			hosts.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(via), Metric: metric})
	}
	before := dumpNetwork(t)
	if changes := converge(t, sys, spec("192.0.2.1", 0)); len(changes) != 0 {
		t.Errorf("a route that serves is left to its maker, got\n%s", printed(changes))
	}
	converge(t, sys, State{})
	if after := dumpNetwork(t); after != before {
		t.Errorf("host is\n%s\nwant\n%s", after, before)
	}

	other := spec("192.0.2.2", 0)
	changes := diffNow(t, sys, other)
	if err := sys.Apply(t.Context(), changes, plan.Silent{}); err == nil || !strings.Contains(err.Error(), "a route that DHCP made is in its place; adopt = true in the spec takes it over") {
		t.Errorf("apply over somebody else's route: %v", err)
	}
	if after := dumpNetwork(t); after != before {
		t.Errorf("host is\n%s\nwant\n%s", after, before)
	}

	other.Routes[0].Adopt = true
	got := printed(converge(t, sys, other))
	want := `update route 0.0.0.0/0 [disconnect] "default via 192.0.2.1 dev lan0 (made by DHCP)" -> "default via 192.0.2.2 dev lan0": the spec wants other values; DHCP made the route that is there
`
	if got != want {
		t.Errorf("plan is\n%swant\n%s", got, want)
	}
	got = printed(converge(t, sys, spec("192.0.2.2", 10)))
	if !strings.Contains(got, "create route 0.0.0.0/0 metric 10 [quiet]") || !strings.Contains(got, "delete route 0.0.0.0/0 [disconnect]") {
		t.Errorf("plan is\n%s", got)
	}
	got = printed(converge(t, sys, spec("192.0.2.3", 5)))
	if !strings.Contains(got, `create route 0.0.0.0/0 metric 5 [disconnect]`) || !strings.Contains(got, "it takes over from") {
		t.Errorf("plan is\n%s", got)
	}
}

// TestBlackholeIsReplaced covers a route in the slot that a spec cannot say, and
// IPv6, where a route without a gateway must give way to one with.
func TestBlackholeIsReplaced(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	for _, destination := range []string{"10.9.0.0/16", "fd09::/64"} {
		p := netip.MustParsePrefix(destination)
		must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(p), Type: unix.RTN_BLACKHOLE, Priority: 77}))
	}
	changes := converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/24", "2001:db8::10/64")},
		hosts.Route{Destination: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("192.0.2.1"), Metric: 77, Adopt: true},
		hosts.Route{Destination: netip.MustParsePrefix("fd09::/64"), Via: netip.MustParseAddr("2001:db8::1"), Metric: 77, Adopt: true}))
	if got := printed(changes); !strings.Contains(got, `"blackhole 10.9.0.0/16 metric 77 (made by hand (protocol boot))"`) {
		t.Errorf("plan is\n%s", got)
	}
}

func TestIPv4OverIPv6Gateway(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	converge(t, open(t), network([]hosts.Link{physical("lan0", "192.0.2.10/32", "2001:db8::10/64")},
		hosts.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("fe80::1"), Device: "lan0"}))
}

// TestIPv6SourceWaitsForDetection adds an address and a route that prefers it
// in one plan, with duplicate address detection on as on every host.
func TestIPv6SourceWaitsForDetection(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	source := netip.MustParseAddr("2001:db8::10")
	converge(t, open(t), network([]hosts.Link{physical("lan0", "2001:db8::10/64")},
		hosts.Route{Destination: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8::1"), Source: source}))
}

func TestIPv6SourceThatSomebodyElseHas(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	must(t, netlink.AddrAdd(linkNamed(t, "wire0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("2001:db8::10/64")), Flags: unix.IFA_F_NODAD}))
	sys := open(t)
	want := network([]hosts.Link{physical("lan0", "2001:db8::10/64")},
		hosts.Route{Destination: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8::1"), Source: netip.MustParseAddr("2001:db8::10")})
	// wire0 is the same host here, so the address serves as a source once it is
	// usable on one link; what counts is that lan0's is reported.
	deadline := time.Now().Add(10 * time.Second)
	must(t, sys.Apply(t.Context(), diffNow(t, sys, network([]hosts.Link{physical("lan0", "2001:db8::10/64")})), plan.Silent{}))
	for {
		addresses, err := sys.listAddresses()
		must(t, err)
		if slices.ContainsFunc(addresses, func(a kernelAddress) bool { return a.duplicate }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the kernel found no duplicate")
		}
	}
	must(t, netlink.AddrDel(linkNamed(t, "wire0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("2001:db8::10/64"))}))
	err := sys.Apply(t.Context(), diffNow(t, sys, want), plan.Silent{})
	if err == nil || !strings.Contains(err.Error(), "another host has the same address") {
		t.Errorf("apply: %v", err)
	}
}

// TestBridgeKeepsItsMTU while ports with smaller and larger ones come and go.
func TestBridgeKeepsItsMTU(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	for _, mtu := range []int{1500, 1400, 9000} {
		port := hosts.Link{Name: "lan0", Kind: hosts.LinkPhysical, Master: "br0", MTU: 1450}
		veth := hosts.Link{Name: "v0", Kind: hosts.LinkVeth, Peer: "v1", Master: "br0", MTU: 1350}
		bridge := hosts.Link{Name: "br0", Kind: hosts.LinkBridge, MTU: mtu}
		converge(t, sys, network([]hosts.Link{bridge, port, veth}))
		port.MTU = 1280
		converge(t, sys, network([]hosts.Link{bridge, port, veth}))
		converge(t, sys, network([]hosts.Link{bridge, port}))
		converge(t, sys, network([]hosts.Link{bridge, physical("lan0")}))
		converge(t, sys, State{})
	}
}

// TestHalfMadeLinksAreOurs: created in our group, killed before the alias.
func TestHalfMadeLinksAreOurs(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	half := netlink.NewLinkAttrs()
	half.Name, half.Group = "v0", linkGroup
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: half, PeerName: "v1"}))
	want := network([]hosts.Link{{Name: "v0", Kind: hosts.LinkVeth, Peer: "v1"}})
	got := printed(converge(t, sys, want))
	if !strings.Contains(got, "update link v0 [quiet]") || !strings.Contains(got, "update link v1 [quiet]") {
		t.Errorf("plan is\n%s", got)
	}
	converge(t, sys, State{})
	if _, err := netlink.LinkByName("v0"); err == nil {
		t.Error("v0 is still there")
	}
}

// TestKindChangesMakeAnew with everything on the link: its port, its address,
// its route, and the other end that another pair wants.
func TestKindChangesMakeAnew(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	route := hosts.Route{Destination: netip.MustParsePrefix("10.99.0.0/16"), Via: netip.MustParseAddr("10.0.0.254")}
	address := hosts.Plain(netip.MustParsePrefix("10.0.0.1/24"))
	converge(t, sys, network([]hosts.Link{
		{Name: "x0", Kind: hosts.LinkBridge, Addresses: address},
		{Name: "lan0", Kind: hosts.LinkPhysical, Master: "x0"},
		{Name: "a", Kind: hosts.LinkVeth, Peer: "b"},
		{Name: "c", Kind: hosts.LinkVeth, Peer: "d"},
	}, route))
	changes := converge(t, sys, network([]hosts.Link{
		{Name: "x0", Kind: hosts.LinkVeth, Peer: "x1", Addresses: address},
		{Name: "lan0", Kind: hosts.LinkPhysical},
		{Name: "a", Kind: hosts.LinkVeth, Peer: "d"},
		{Name: "c", Kind: hosts.LinkVeth, Peer: "b"},
	}, route))
	if p := (plan.Plan{Changes: changes}); p.Effect() != plan.Disconnect {
		t.Errorf("effect is %s, want disconnect", p.Effect())
	}
}

func TestOneEndGoneToAnotherNamespace(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	want := network([]hosts.Link{{Name: "v0", Kind: hosts.LinkVeth, Peer: "v1"}})
	converge(t, sys, want)
	done := make(chan int)
	other := make(chan int)
	go func() {
		newNamespace(t)
		other <- unix.Gettid()
		<-done
	}()
	must(t, netlink.LinkSetNsPid(linkNamed(t, "v1"), <-other))
	converge(t, sys, want)
	close(done)
	if _, err := netlink.LinkByName("v1"); err != nil {
		t.Errorf("v1: %v", err)
	}
}
