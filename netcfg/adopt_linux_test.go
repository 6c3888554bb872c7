package netcfg

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

// TestRuleOfSomebodyElse: it serves a spec that says the same, stands beside one
// that says other things, and gives way to one that adopts it.
func TestRuleOfSomebodyElse(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	sys := open(t)
	for _, line := range []string{
		"rule add pref 100 from 10.1.0.0/16 lookup 100 proto static",
		"-6 rule add pref 100 from fd01::/64 lookup 100 proto static",
		"rule add pref 200 from 10.2.0.0/16 unreachable proto bird",
	} {
		ip(t, line)
	}
	before := ipState(t)
	prefix := netip.MustParsePrefix
	same := []hosts.Rule{
		{Priority: 100, From: prefix("10.1.0.0/16"), Table: 100},
		{Priority: 100, From: prefix("fd01::/64"), Table: 100, IPv6: true},
		{Priority: 200, From: prefix("10.2.0.0/16"), Action: "unreachable"},
	}
	state := func(rules []hosts.Rule) State { return Want(&hosts.Spec{Network: hosts.Network{Rules: rules}}) }
	if changes := converge(t, sys, state(same)); len(changes) > 0 {
		t.Errorf("rules that serve are left to their makers, got\n%s", printed(changes))
	}

	other := []hosts.Rule{{Priority: 100, From: prefix("10.9.0.0/16"), Table: 109}}
	converge(t, sys, state(other))
	if lost := linesMissing(before, ipState(t)); lost != "" {
		t.Errorf("a rule beside theirs removed\n%s", lost)
	}
	converge(t, sys, State{})
	if d := cmp.Diff(before, ipState(t)); d != "" {
		t.Errorf("there and back (-before +after):\n%s", d)
	}

	for _, rules := range [][]hosts.Rule{same, other} {
		for i := range rules {
			rules[i].Adopt = true
		}
		thereAndBack(t, sys, state(rules))
	}
	text := printed(converge(t, sys, state(same)))
	if strings.Count(text, "update rule") != 3 || !strings.Contains(text, `update rule 100 [quiet] "100: from 10.1.0.0/16 lookup 100 (somebody else's)" -> "100: from 10.1.0.0/16 lookup 100": the spec adopts it`) {
		t.Errorf("plan is\n%s", text)
	}
	converge(t, sys, State{}) // nodeagent's now, they go with the spec
	if after := ipState(t); strings.Contains(after, `"priority":100,`) || strings.Contains(after, `"priority":200,`) {
		t.Errorf("what was adopted and dropped is there:\n%s", after)
	}
}

// TestRulesOfOnePlaceComeBackInOrder: the kernel asks those of one priority in
// the order in which they were made.
func TestRulesOfOnePlaceComeBackInOrder(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	for _, line := range []string{
		"rule add pref 100 from 10.9.0.0/16 lookup 109 proto static",
		"rule add pref 100 from 10.1.0.0/16 lookup 101 proto bird",
		"rule add pref 100 from 10.5.0.0/16 prohibit proto static",
		"rule add pref 100 fwmark 0x7/0xf lookup 107 suppress_prefixlength 0 proto static",
		"rule add pref 100 iif lo to 10.7.0.0/16 ipproto 17 dport 53 lookup 107 proto static",
	} {
		ip(t, line)
	}
	thereAndBack(t, sys, Want(&hosts.Spec{Network: hosts.Network{Rules: []hosts.Rule{
		{Priority: 100, From: netip.MustParsePrefix("10.5.0.0/16"), Action: "prohibit", Adopt: true},
	}}}))
}

// TestAdoptedRouteComesBack whatever it is made of.
func TestAdoptedRouteComesBack(t *testing.T) {
	for _, theirs := range []string{
		"route add %s via 10.0.0.2 dev lan0 proto dhcp src 10.0.0.1",
		"route add %s via 10.0.0.2 dev lan0 proto static mtu 1300",
		"route add %s via 203.0.113.1 dev lan0 onlink proto bird",
		"route add %s via inet6 fd00:0::2 dev lan0 proto static",
		"route add %s dev lan0 proto static",
		"route add %s dev lan0 proto static scope global",
		"route add %s dev lan0 proto static scope site",
		"route add %s dev lan0 proto static scope 77",
		"route add blackhole %s proto static",
		"route add unreachable %s proto bird",
		"route add prohibit %s proto boot",
		"route add %s proto 77 nexthop via 10.0.0.2 dev lan0 weight 2 nexthop via 10.0.1.2 dev lan1 weight 200",
		"route add %s proto static nexthop via inet6 fd00:0::2 dev lan0 nexthop via 203.0.113.1 dev lan1 onlink weight 7",
		"-6 route add %s via fd00:0::2 dev lan0 proto static",
		"-6 route add %s via fd00:0::2 dev lan0 proto static src fd00:0::1 mtu 1300",
		"-6 route add %s via fd99::1 dev lan0 onlink proto bird",
		"-6 route add %s dev lan1 proto static",
		"-6 route add blackhole %s proto static",
		"-6 route add unreachable %s proto static",
		"-6 route add prohibit %s proto static",
		"-6 route add %s proto static nexthop via fd00:0::2 dev lan0 weight 3 nexthop via fd00:1::2 dev lan1 weight 9",
		"-6 route add %s proto static nexthop via fd00:1::2 dev lan1 weight 3 nexthop via fd00:0::2 dev lan0 weight 9",
	} {
		for _, slot := range []string{"", " table 100", " metric 70", " table 1000 metric 70"} {
			t.Run(theirs+slot, func(t *testing.T) {
				newNamespace(t)
				withoutDAD(t)
				somebodysVeth(t, "lan0", "wire0")
				somebodysVeth(t, "lan1", "wire1")
				sys := open(t)
				converge(t, sys, network(twoNetworks()))
				must(t, sys.waitForSource(t.Context(), netip.MustParseAddr("fd00:0::1")))
				route := hosts.Route{Destination: netip.MustParsePrefix("10.90.0.0/16"), Via: netip.MustParseAddr("10.0.0.9"), Adopt: true}
				if strings.HasPrefix(theirs, "-6") {
					route.Destination, route.Via = netip.MustParsePrefix("fd90::/64"), netip.MustParseAddr("fd00:0::9")
				}
				if strings.Contains(slot, "table") {
					route.Table = map[bool]int{false: 100, true: 1000}[strings.Contains(slot, "1000")]
				}
				if strings.Contains(slot, "metric") {
					route.Metric = 70
				}
				// The slot stands before ways of its own.
				head, ways, several := strings.Cut(strings.ReplaceAll(theirs, "%s", route.Destination.String()), " nexthop")
				if several {
					ip(t, head+slot+" nexthop"+ways)
				} else {
					ip(t, head+slot)
				}
				thereAndBack(t, sys, network(twoNetworks(), route))
			})
		}
	}
}

// TestRoutesThatGoWithAnAddressComeBack, also those over links of which the spec
// says nothing. One that nodeagent cannot write as it is forbids the change,
// unless it stays.
func TestRoutesThatGoWithAnAddressComeBack(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	converge(t, sys, network(twoNetworks()[:1]))
	must(t, sys.waitForSource(t.Context(), netip.MustParseAddr("fd00:0::1")))
	somebodysAddress(t, "lan1", "10.0.1.1/24")
	somebodysAddress(t, "lan1", "fd00:1::1/64")
	for _, line := range []string{
		"route add 10.90.0.0/16 dev lan1 src 10.0.0.1 proto static",
		"route add 10.91.0.0/16 via 10.0.1.2 src 10.0.0.1 proto dhcp table 100",
		"route add 10.92.0.0/16 proto static src 10.0.0.1 nexthop via 10.0.1.2 weight 3 nexthop via 10.0.0.2 weight 2",
		"route add 10.93.0.0/16 via 10.0.1.2 proto static initcwnd 20", // stays
		"-6 route add fd90::/64 via fd00:1::2 dev lan1 src fd00:0::1 proto static",
	} {
		ip(t, line)
	}
	thereAndBack(t, sys, network([]hosts.Link{physical("lan0")}))
	thereAndBack(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.1/24", "2001:db8::1/64")}))
	thereAndBack(t, sys, State{})

	ip(t, "route add 10.94.0.0/16 via 10.0.0.2 proto static initcwnd 20")
	for _, want := range []State{network([]hosts.Link{physical("lan0")}), {}} {
		have, err := sys.Before(t.Context(), "", want)
		must(t, err)
		if _, err = Back(have, want); err == nil || !strings.Contains(err.Error(), `route "10.94.0.0/16 via 10.0.0.2 dev lan0", made by an administrator (protocol static), would be replaced or go`) || strings.Contains(err.Error(), "10.93") {
			t.Errorf("back: %v", err)
		}
	}
}
