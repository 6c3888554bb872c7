package netcfg

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// open opens the test's own namespace.
func open(t testing.TB) *System {
	t.Helper()
	assertApart(t)
	sys, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close() })
	return sys
}

// diffNow observes and compares.
func diffNow(t testing.TB, sys *System, want State) []plan.Change {
	t.Helper()
	have, err := sys.Observe(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return Diff(have, want)
}

// converge brings the namespace to the wanted state and proves that one Apply
// was enough.
func converge(t testing.TB, sys *System, want State) []plan.Change {
	t.Helper()
	changes := diffNow(t, sys, want)
	if err := sys.Apply(t.Context(), changes, plan.Silent{}); err != nil {
		t.Fatalf("apply: %v\nplan:\n%s", err, printed(changes))
	}
	if left := diffNow(t, sys, want); len(left) > 0 {
		t.Fatalf("after one apply there is still\n%s\nplan was:\n%s", printed(left), printed(changes))
	}
	return changes
}

// printed is one line for each change, as golden texts have them.
func printed(changes []plan.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s [%s] %q -> %q: %s\n", c.Action, c.Key, c.Effect, c.Before, c.After, c.Reason)
	}
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// somebodysVeth makes a pair as somebody else would: it stands for hardware,
// which a namespace has none of.
func somebodysVeth(t testing.TB, name, peer string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer}))
	for _, n := range []string{name, peer} {
		must(t, netlink.LinkSetUp(linkNamed(t, n)))
	}
}

func linkNamed(t testing.TB, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %q: %v", name, err)
	}
	return link
}

func somebodysAddress(t testing.TB, link, prefix string) {
	t.Helper()
	address, err := netlink.ParseAddr(prefix)
	must(t, err)
	must(t, netlink.AddrAdd(linkNamed(t, link), address))
}

func somebodysRoute(t testing.TB, link, destination, via string, metric int, protocol netlink.RouteProtocol) {
	t.Helper()
	_, dst, err := net.ParseCIDR(destination)
	must(t, err)
	route := &netlink.Route{LinkIndex: linkNamed(t, link).Attrs().Index, Dst: dst, Priority: metric, Protocol: protocol}
	if via != "" {
		route.Gw = netip.MustParseAddr(via).AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	must(t, netlink.RouteAdd(route))
}

// ipNet is the prefix as the netlink library takes it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// withoutDAD turns duplicate address detection off in the namespace, so that
// cases with IPv6 sources need not wait for it.
func withoutDAD(t testing.TB) {
	t.Helper()
	assertApart(t)
	for _, which := range []string{"all", "default"} {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/accept_dad", []byte("0"), 0))
	}
}

// dumpNetwork is every link, address, route of every table and rule of the
// namespace, one a line, without counters and ages, and without what the kernel
// itself adds and removes some time after a link was told to come up: the
// running flag, IPv6 link-local addresses and IPv6 routes of its own.
func dumpNetwork(t testing.TB) string {
	t.Helper()
	var lines []string
	links, err := netlink.LinkList()
	must(t, err)
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		lines = append(lines, fmt.Sprintf("link %s %s index %d mtu %d master %d alias %q group %d flags %s mac %s parent %d",
			a.Name, l.Type(), a.Index, a.MTU, a.MasterIndex, a.Alias, a.Group, a.Flags&^net.FlagRunning, a.HardwareAddr, a.ParentIndex))
	}
	sys, err := Open()
	must(t, err)
	defer sys.Close()
	addresses, err := sys.listAddresses()
	must(t, err)
	for _, a := range addresses {
		const linkLocal = 3 // IFAPROT_KERNEL_LL
		if a.protocol == linkLocal {
			continue
		}
		a.tentative = false
		lines = append(lines, fmt.Sprintf("address %s on %s: %+v", a.prefix, names[a.index], a))
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		if r.Family == netlink.FAMILY_V6 && r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		r.Flags &^= unix.RTNH_F_LINKDOWN
		lines = append(lines, fmt.Sprintf("route %s dev %s table %d", r, names[r.LinkIndex], r.Table))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		must(t, err)
		for _, r := range rules {
			lines = append(lines, "rule "+r.String())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// mercury is a spec of every sort of thing: a physical link with addresses, a
// bridge with one end of a veth pair, and routes that depend on each other.
func mercury() *hosts.Spec {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return &hosts.Spec{Name: "mercury", Network: hosts.Network{
		Links: []hosts.Link{
			{Name: "vpod", Kind: hosts.LinkVeth, Peer: "vhost", Master: "br0", MTU: 1450},
			{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(prefix("192.0.2.10/24"), prefix("2001:db8::10/64"))},
			{Name: "br0", Kind: hosts.LinkBridge, MTU: 1450, Addresses: hosts.Plain(prefix("10.20.0.1/24"))},
		},
		Routes: []hosts.Route{
			{Destination: prefix("0.0.0.0/0"), Via: addr("198.51.100.1"), Device: "lan0"},
			{Destination: prefix("198.51.100.1/32"), Device: "lan0"},
			{Destination: prefix("10.99.0.0/16"), Via: addr("10.20.0.254"), Metric: 50},
			{Destination: prefix("::/0"), Via: addr("2001:db8::1")},
		},
	}}
}

func countdown(ctx context.Context, n int) context.Context { return &countdownContext{ctx, n} }

// countdownContext is done after it was asked n times: as Apply asks before
// every write, it stops Apply between any two writes.
type countdownContext struct {
	context.Context
	left int
}

func (c *countdownContext) Err() error {
	if c.left == 0 {
		return context.Canceled
	}
	c.left--
	return nil
}
