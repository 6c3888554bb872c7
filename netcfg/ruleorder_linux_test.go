package netcfg

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// twoNetworks is lan0 and lan1 with an address of each family, as specs.
func twoNetworks() []hosts.Link {
	var links []hosts.Link
	for i, name := range []string{"lan0", "lan1"} {
		links = append(links, hosts.Link{Name: name, Kind: hosts.LinkPhysical, Addresses: hosts.Plain(
			netip.MustParsePrefix(fmt.Sprintf("10.0.%d.1/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::1/64", i)))})
	}
	return links
}

// wideRule is a rule for all packets into a table that swallows them.
func wideRule(r *rand.Rand, v6 bool, priority int) ([]hosts.Route, hosts.Rule) {
	rule := hosts.Rule{Priority: priority, IPv6: v6, Table: 100 + priority}
	all := netip.MustParsePrefix("0.0.0.0/0")
	if v6 {
		all = netip.MustParsePrefix("::/0")
	}
	trap := hosts.Route{Destination: all, Table: rule.Table, Type: []hosts.RouteType{hosts.RouteBlackhole, hosts.RouteUnreachable, hosts.RouteProhibit}[r.IntN(3)]}
	switch r.IntN(4) {
	case 0: // a table that leads elsewhere, without an end for the gateway
		trap.Type, trap.Via, trap.Device = "", netip.MustParseAddr("10.0.0.77"), "lan0"
		if v6 {
			trap.Via = netip.MustParseAddr("fd00:0::77")
		}
	case 1: // no table at all
		rule.Table, rule.Action = 0, string(trap.Type)
		return nil, rule
	}
	return []hosts.Route{trap}, rule
}

// gatewayRoutes draws routes by gateways in tables where no network is.
func gatewayRoutes(r *rand.Rand) []hosts.Route {
	var routes []hosts.Route
	for i := range 1 + r.IntN(4) {
		link := r.IntN(2)
		route := hosts.Route{Table: []int{0, 1000}[r.IntN(2)], Device: fmt.Sprintf("lan%d", link)}
		route.Destination = netip.MustParsePrefix(fmt.Sprintf("10.9%d.0.0/16", i))
		route.Via = netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", link, 2+r.IntN(3)))
		if r.IntN(2) == 0 {
			route.Destination = netip.MustParsePrefix(fmt.Sprintf("fd9%d::/16", i))
			route.Via = netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", link, 2+r.IntN(3)))
		}
		routes = append(routes, route)
	}
	return routes
}

// TestAwayFromRuleThatSwallowsGateways: the rule that goes, the one that comes
// in its place, and a table that is emptied, while routes by gateways come; one
// apply each.
func TestAwayFromRuleThatSwallowsGateways(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	r := rand.New(rand.NewPCG(5, 5))
	converge(t, sys, network(twoNetworks()))
	waited := 0
	for round := range 300 {
		n := hosts.Network{Links: twoNetworks(), Routes: gatewayRoutes(r)}
		// Every other state has no such rule, or one at another place than before.
		for _, v6 := range []bool{false, true} {
			if r.IntN(3) > 0 {
				routes, rule := wideRule(r, v6, 1+round%2)
				n.Routes, n.Rules = append(n.Routes, routes...), append(n.Rules, rule)
			}
		}
		order := &heard{}
		want := Want(&hosts.Spec{Network: n})
		changes := diffNow(t, sys, want)
		if err := sys.Apply(t.Context(), changes, order); err != nil {
			t.Fatalf("round %d: %v\nplan:\n%s", round, err, printed(changes))
		}
		if left := diffNow(t, sys, want); len(left) > 0 {
			t.Fatalf("round %d: after one apply there is still\n%s\nplan was:\n%s", round, printed(left), printed(changes))
		}
		if order.begun != len(changes) || order.ended != len(changes) {
			t.Fatalf("round %d: %d changes, the reporter heard of %d begun and %d ended", round, len(changes), order.begun, order.ended)
		}
		if !slices.Equal(order.keys, keys(changes)) {
			waited++
		}
	}
	if waited < 30 {
		t.Errorf("routes had to wait in %d rounds only: the test proves little", waited)
	}
}

// heard notes what a reporter hears.
type heard struct {
	begun, ended int
	keys         []string
	failed       map[string]error // by key, where it was made
}

func (r *heard) Begin(plan.Change) { r.begun++ }

func (r *heard) End(c plan.Change, err error) {
	if err != nil && r.failed != nil {
		r.failed[c.Key] = err
	}
	r.ended++
	r.keys = append(r.keys, string(c.Action)+" "+c.Key)
}

func keys(changes []plan.Change) []string {
	var list []string
	for _, c := range changes {
		list = append(list, string(c.Action)+" "+c.Key)
	}
	return list
}

// TestGatewayThatIsNowhereStillFails where rules and routes are deleted as well,
// with one error and all the rest done.
func TestGatewayThatIsNowhereStillFails(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	trap, rule := wideRule(rand.New(rand.NewPCG(1, 4)), false, 1)
	converge(t, sys, Want(&hosts.Spec{Network: hosts.Network{Links: twoNetworks(), Routes: trap, Rules: []hosts.Rule{rule}}}))
	rule.Priority = 2
	want := Want(&hosts.Spec{Network: hosts.Network{Links: twoNetworks(), Rules: []hosts.Rule{rule}, Routes: append(trap, hosts.Route{
		Destination: netip.MustParsePrefix("10.90.0.0/16"), Via: netip.MustParseAddr("203.0.113.1"), Table: 1000,
	})}})
	err := sys.Apply(t.Context(), diffNow(t, sys, want), plan.Silent{})
	if err == nil || strings.Count(err.Error(), "add route") != 1 || !strings.Contains(err.Error(), `gateway 203.0.113.1 is on no network of this host`) {
		t.Errorf("apply: %v", err)
	}
	if left := diffNow(t, sys, want); len(left) != 1 || left[0].Key != "route 10.90.0.0/16 table 1000" {
		t.Errorf("there is still\n%s", printed(left))
	}
}
