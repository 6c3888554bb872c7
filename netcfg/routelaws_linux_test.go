package netcfg

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// randomRoutes draws routes of every kind and rules from a small world, so that
// two draws collide in every slot.
func randomRoutes(r *rand.Rand) hosts.Network {
	one := func(in int) bool { return r.IntN(in) == 0 }
	var n hosts.Network
	for i, name := range []string{"lan0", "lan1"} {
		n.Links = append(n.Links, hosts.Link{Name: name, Kind: hosts.LinkPhysical, Addresses: hosts.Plain(
			netip.MustParsePrefix(fmt.Sprintf("10.0.%d.1/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::1/64", i)))})
	}
	hop := func(v6 bool, link int) (netip.Addr, bool) {
		switch {
		case v6 || one(4): // of an IPv4 route as well
			return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", link, 2+r.IntN(3))), false
		case one(4):
			return netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + r.IntN(3))}), true
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(link), byte(2 + r.IntN(3))}), false
	}
	slots := map[string]bool{}
	for range 1 + r.IntN(8) {
		v6 := one(2)
		route := hosts.Route{
			Table: []int{0, 0, 100, 1000}[r.IntN(4)], Metric: []int{0, 100, 1024}[r.IntN(3)], Destination: destination(r, v6),
			MTU: []int{0, 0, 1400}[r.IntN(3)],
		}
		slot := fmt.Sprint(route.Table, route.Destination, kernelMetric(&Route{Destination: route.Destination, Metric: route.Metric}))
		if slots[slot] {
			continue
		}
		slots[slot] = true
		link := r.IntN(2)
		name := fmt.Sprintf("lan%d", link)
		switch r.IntN(5) {
		case 0:
			route.Type = []hosts.RouteType{hosts.RouteBlackhole, hosts.RouteUnreachable, hosts.RouteProhibit}[r.IntN(3)]
			route.MTU = 0
		case 1:
			for i := range 2 {
				via, onLink := hop(v6, i)
				route.Nexthops = append(route.Nexthops, hosts.Nexthop{Via: via, OnLink: onLink, Device: fmt.Sprintf("lan%d", i), Weight: 1 + r.IntN(3)})
			}
		case 2:
			route.Device = name
		default:
			route.Via, route.OnLink = hop(v6, link)
			route.Device = name
			if one(3) && !v6 {
				route.Source = netip.AddrFrom4([4]byte{10, 0, byte(link), 1})
			}
		}
		n.Routes = append(n.Routes, route)
	}
	for priority := 100; priority < 104; priority++ {
		if one(2) {
			continue
		}
		rule := hosts.Rule{Priority: priority, IPv6: one(2), Table: []int{100, 254, 1000}[r.IntN(3)]}
		// From a range: a rule for all, to a table with a default route, makes the
		// kernel refuse IPv6 gateways that are not on-link by that table.
		rule.From = netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", r.IntN(3)))
		if rule.IPv6 {
			rule.From = netip.MustParsePrefix(fmt.Sprintf("fd77:%d::/64", r.IntN(3)))
		}
		if one(3) {
			rule.Inbound = "lan0"
		}
		if one(3) {
			rule.Mark, rule.Mask = 1, []uint32{1, 0xff, 0xffffffff}[r.IntN(3)]
		}
		if one(3) {
			rule.Protocol, rule.Port = "tcp", 443
		}
		if one(4) {
			rule.Action, rule.Table = []string{"blackhole", "unreachable", "prohibit"}[r.IntN(3)], 0
		} else if one(3) {
			suppress := r.IntN(2)
			rule.SuppressPrefixLength = &suppress
		}
		n.Rules = append(n.Rules, rule)
	}
	return n
}

// TestLawsOfRoutesAndRules: over chains of hundreds of random pairs one apply is
// enough, somebody else's stays, and ip(8) counts as many as are wanted.
func TestLawsOfRoutesAndRules(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	r := rand.New(rand.NewPCG(1, 2))
	converge(t, sys, Want(&hosts.Spec{Network: hosts.Network{Links: randomRoutes(r).Links}}))
	ip(t, "route add 10.77.0.0/16 via 10.0.0.9 dev lan0 proto static")
	ip(t, "route add 10.77.0.0/16 via 10.0.0.9 dev lan0 table 100 proto bird")
	ip(t, "rule add pref 101 from 10.77.0.0/16 lookup 100 proto static")
	for range 300 {
		want := Want(&hosts.Spec{Network: randomRoutes(r)})
		converge(t, sys, want)
		if got := counted(t, "-4", "-N", "route", "show", "table", "all") + counted(t, "-6", "-N", "route", "show", "table", "all"); got != len(want.Routes) {
			t.Fatalf("ip counts %d routes, want %d: %v", got, len(want.Routes), want.Routes)
		}
		if got := counted(t, "-4", "-N", "rule", "show") + counted(t, "-6", "-N", "rule", "show"); got != len(want.Rules) {
			t.Fatalf("ip counts %d rules, want %d: %v", got, len(want.Rules), want.Rules)
		}
	}
	foreign, err := sys.Foreign(t.Context(), State{})
	must(t, err)
	others := 0
	for _, f := range foreign {
		if f.Kind == "route" || f.Kind == "rule" {
			others++
		}
	}
	if others != 3 {
		t.Errorf("of somebody else's two routes and a rule there is left %v", foreign)
	}
}

// counted is how many of our objects ip(8) lists.
func counted(t *testing.T, args ...string) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", append([]string{"-j"}, args...)...).Output()
	must(t, err)
	var list []map[string]any
	if len(out) > 0 {
		must(t, json.Unmarshal(out, &list))
	}
	ours := 0
	for _, object := range list {
		if object["protocol"] == strconv.Itoa(RouteProtocol) {
			ours++
		}
	}
	return ours
}
