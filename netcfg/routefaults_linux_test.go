package netcfg

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// vanishingSpec has routes over each of two links and over both, and rules about
// them.
func vanishingSpec(links ...hosts.Link) State {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return Want(&hosts.Spec{Network: hosts.Network{
		Links: links,
		Routes: []hosts.Route{
			{Destination: prefix("10.80.0.0/16"), Via: addr("10.0.0.2"), Device: "lan0"},
			{Destination: prefix("fd80::/64"), Via: addr("fd00:0::2"), Device: "lan0"},
			{Destination: prefix("10.81.0.0/16"), Via: addr("10.0.1.2"), Device: "lan1"},
			{Destination: prefix("10.82.0.0/16"), Device: "lan1", Table: 100},
			{Destination: prefix("fd81::/64"), Via: addr("fd00:1::2"), Device: "lan1"},
			{Destination: prefix("10.83.0.0/16"), Nexthops: []hosts.Nexthop{{Via: addr("10.0.0.2"), Device: "lan0", Weight: 1}, {Via: addr("10.0.1.2"), Device: "lan1", Weight: 1}}},
			{Destination: prefix("10.84.0.0/16"), Type: hosts.RouteBlackhole},
		},
		Rules: []hosts.Rule{
			{Priority: 100, Inbound: "lan1", Table: 100},
			{Priority: 101, From: prefix("fd80::/64"), IPv6: true, Outbound: "lan1", Table: 100},
		},
	}})
}

// TestLinkOfRoutesThatVanishesBeforeTheyAreMade: those over it fail and are named,
// the others and the rules, which need no link, are made; once it is back the
// rest follows.
func TestLinkOfRoutesThatVanishesBeforeTheyAreMade(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	converge(t, sys, network(twoNetworks()))
	want := vanishingSpec(twoNetworks()...)
	changes := diffNow(t, sys, want)
	must(t, netlink.LinkDel(linkNamed(t, "lan1")))
	refused(t, sys, changes,
		`add route "10.81.0.0/16 via 10.0.1.2 dev lan1": find link "lan1": it is not on this host`,
		`add route "10.82.0.0/16 dev lan1 table 100": find link "lan1"`,
		`add route "fd81::/64 via fd00:1::2 dev lan1": find link "lan1"`,
		`add route "10.83.0.0/16 nexthop via 10.0.0.2 dev lan0 weight 1 nexthop via 10.0.1.2 dev lan1 weight 1": find link "lan1"`)
	if got := counted(t, "-4", "-N", "route", "show", "table", "all") + counted(t, "-6", "-N", "route", "show", "table", "all"); got != 3 {
		t.Errorf("%d routes were made, want those over lan0 and the blackhole:\n%s", got, ipState(t))
	}
	if got := counted(t, "-4", "-N", "rule", "show") + counted(t, "-6", "-N", "rule", "show"); got != 2 {
		t.Errorf("%d rules were made, want both", got)
	}

	// Planned anew, what needs the link is one change that says so, and a route of
	// two ways takes the one that is there.
	left := diffNow(t, sys, want)
	got := keys(left)
	if d := cmp.Diff([]string{"create link lan1", "create route 10.83.0.0/16"}, got); d != "" {
		t.Errorf("plan (-want +got):\n%s\n%s", d, printed(left))
	}
	refused(t, sys, left, `link "lan1" is not on this host; links found: `)
	somebodysVeth(t, "lan1", "wire1")
	converge(t, sys, want)
}

// TestLinkOfRoutesThatVanishesBeforeTheyGo takes them along: deleting them is no
// error, nor is anything about them left to do. Another link of the same name
// gets them all.
func TestLinkOfRoutesThatVanishesBeforeTheyGo(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	want := vanishingSpec(twoNetworks()...)
	converge(t, sys, want)
	others := network(twoNetworks()[:1])
	changes := diffNow(t, sys, others)
	must(t, netlink.LinkDel(linkNamed(t, "lan1")))
	var withoutAddresses []plan.Change
	for _, c := range changes { // those of addresses say that the link is gone
		if _, address := c.Payload.(deleteAddress); !address {
			withoutAddresses = append(withoutAddresses, c)
		}
	}
	must(t, sys.Apply(t.Context(), withoutAddresses, plan.Silent{}))
	if left := diffNow(t, sys, others); len(left) > 0 {
		t.Errorf("there is still\n%s", printed(left))
	}
	if got := counted(t, "-4", "-N", "route", "show", "table", "all") + counted(t, "-4", "-N", "rule", "show"); got != 0 {
		t.Errorf("%d routes and rules are left:\n%s", got, ipState(t))
	}

	somebodysVeth(t, "lan1", "wire1")
	converge(t, sys, want)
	changes = diffNow(t, sys, want)
	must(t, netlink.LinkDel(linkNamed(t, "lan1")))
	somebodysVeth(t, "lan1", "wire1") // another index
	must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
	again := diffNow(t, sys, want)
	if len(again) < 5 {
		t.Errorf("another link took the place, and the plan is\n%s", printed(again))
	}
	converge(t, sys, want)
}

// TestLinkThatIsAnotherBetweenObserveAndApply: edits find links by their names,
// so that routes go to the one that has it by then.
func TestLinkThatIsAnotherBetweenObserveAndApply(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	want := vanishingSpec(twoNetworks()...)
	changes := diffNow(t, sys, want)
	must(t, netlink.LinkDel(linkNamed(t, "lan1")))
	somebodysVeth(t, "lan1", "wire1")
	must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
	if left := diffNow(t, sys, want); len(left) > 0 {
		t.Errorf("there is still\n%s", printed(left))
	}
}
