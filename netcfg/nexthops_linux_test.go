package netcfg

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

// withNexthopObjects is a host on which a routing daemon made nexthop objects
// and routes through them.
func withNexthopObjects(t *testing.T) *System {
	t.Helper()
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	converge(t, sys, network(twoNetworks()))
	for _, line := range []string{
		"nexthop add id 1 via 10.0.0.2 dev lan0 proto bird",
		"nexthop add id 2 via 10.0.1.2 dev lan1 proto bird",
		"nexthop add id 3 group 1,2/2,3 proto bird",
		"nexthop add id 4 blackhole proto bird",
		"nexthop add id 5 dev lan0 proto bird",
		"nexthop add id 6 via 203.0.113.1 dev lan0 onlink proto bird",
		"nexthop add id 7 via fd00:0::2 dev lan0 proto bird",
		"nexthop add id 8 via fd00:1::2 dev lan1 proto bird",
		"nexthop add id 9 group 7/8 proto bird",
		"-6 nexthop add id 10 blackhole proto bird",
		"route add 10.91.0.0/16 nhid 1 proto bird",
		"route add 10.92.0.0/16 nhid 3 proto bird",
		"route add 10.93.0.0/16 nhid 4 proto bird",
		"route add 10.94.0.0/16 nhid 5 proto bird table 100",
		"route add 10.95.0.0/16 nhid 6 proto bird",
		"route add 10.96.0.0/16 nhid 7 proto bird metric 7",
		"-6 route add fd91::/64 nhid 7 proto bird",
		"-6 route add fd92::/64 nhid 9 proto bird table 100",
		"-6 route add fd93::/64 nhid 10 proto bird",
	} {
		ip(t, line)
	}
	return sys
}

// objectRoutes are the routes of withNexthopObjects as a spec says them.
func objectRoutes() []hosts.Route {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return []hosts.Route{
		{Destination: prefix("10.91.0.0/16"), Via: addr("10.0.0.2")},
		{Destination: prefix("10.92.0.0/16"), Nexthops: []hosts.Nexthop{{Via: addr("10.0.1.2"), Weight: 3}, {Via: addr("10.0.0.2"), Weight: 2}}},
		{Destination: prefix("10.93.0.0/16"), Type: hosts.RouteBlackhole},
		{Destination: prefix("10.94.0.0/16"), Device: "lan0", Table: 100},
		{Destination: prefix("10.95.0.0/16"), Via: addr("203.0.113.1"), Device: "lan0", OnLink: true},
		{Destination: prefix("10.96.0.0/16"), Via: addr("fd00:0::2"), Metric: 7},
		{Destination: prefix("fd91::/64"), Via: addr("fd00:0::2")},
		{Destination: prefix("fd92::/64"), Table: 100, Nexthops: []hosts.Nexthop{{Via: addr("fd00:0::2"), Weight: 1}, {Via: addr("fd00:1::2"), Weight: 1}}},
		{Destination: prefix("fd93::/64"), Type: hosts.RouteBlackhole},
	}
}

// ownRoutes are routes of many ways beside those of the daemon.
func ownRoutes() []hosts.Route {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return []hosts.Route{
		{Destination: prefix("10.81.0.0/16"), Nexthops: []hosts.Nexthop{{Via: addr("10.0.0.2"), Weight: 2}, {Via: addr("10.0.1.2"), Weight: 3}}},
		{Destination: prefix("fd81::/64"), Nexthops: []hosts.Nexthop{{Via: addr("fd00:0::2"), Weight: 1}, {Via: addr("fd00:1::2"), Weight: 2}}},
	}
}

// TestRoutesThroughNexthopObjects of somebody else serve as the spec's where
// they lead there too, and are never touched. The kernel shows their ways in the
// routes, or (nexthop_compat_mode off) in the objects alone.
func TestRoutesThroughNexthopObjects(t *testing.T) {
	for _, compat := range []string{"1", "0"} {
		t.Run("compat mode "+compat, func(t *testing.T) {
			sys := withNexthopObjects(t)
			must(t, os.WriteFile("/proc/sys/net/ipv4/nexthop_compat_mode", []byte(compat), 0))
			theirs := ipState(t)
			own := network(twoNetworks(), ownRoutes()...)
			converge(t, sys, own)
			if d := linesMissing(theirs, ipState(t)); d != "" {
				t.Errorf("putting the spec's own routes changed\n%s", d)
			}

			both := network(twoNetworks(), append(ownRoutes(), objectRoutes()...)...)
			if changes := converge(t, sys, both); len(changes) > 0 {
				t.Errorf("routes through objects serve no spec that says the same:\n%s", printed(changes))
			}
			foreign := func(want State) []string {
				t.Helper()
				list, err := sys.Foreign(t.Context(), want)
				must(t, err)
				var routes []string
				for _, f := range list {
					if f.Kind == "route" {
						routes = append(routes, f.Detail+" by "+f.By)
					}
				}
				return routes
			}
			if left := foreign(both); len(left) > 0 {
				t.Errorf("what serves the spec is listed as foreign: %q", left)
			}
			if d := cmp.Diff([]string{
				"10.91.0.0/16 via 10.0.0.2 dev lan0 by bird",
				"10.92.0.0/16 nexthop via 10.0.0.2 dev lan0 weight 2 nexthop via 10.0.1.2 dev lan1 weight 3 by bird",
				"blackhole 10.93.0.0/16 by bird",
				"10.94.0.0/16 dev lan0 table 100 by bird",
				"10.95.0.0/16 via 203.0.113.1 dev lan0 onlink by bird",
				"10.96.0.0/16 via fd00::2 dev lan0 metric 7 by bird",
				"fd91::/64 via fd00::2 dev lan0 metric 1024 by bird",
				"fd92::/64 table 100 metric 1024 nexthop via fd00::2 dev lan0 weight 1 nexthop via fd00:1::2 dev lan1 weight 1 by bird",
				"blackhole fd93::/64 metric 1024 by bird",
			}, foreign(own), cmp.Transformer("set", asSet)); d != "" {
				t.Errorf("foreign (-want +got):\n%s", d)
			}

			converge(t, sys, network(twoNetworks()))
			if d := cmp.Diff(theirs, ipState(t)); d != "" {
				t.Errorf("there and back (-before +after):\n%s", d)
			}
		})
	}
}

func asSet(list []string) map[string]bool {
	set := map[string]bool{}
	for _, s := range list {
		set[s] = true
	}
	return set
}

// TestRouteThroughNexthopObjectInTheWay: without adopt it stays and is named;
// with adopt the spec's takes its place, and the way back leads through the
// object again.
func TestRouteThroughNexthopObjectInTheWay(t *testing.T) {
	for _, compat := range []string{"1", "0"} {
		t.Run("compat mode "+compat, func(t *testing.T) {
			sys := withNexthopObjects(t)
			must(t, os.WriteFile("/proc/sys/net/ipv4/nexthop_compat_mode", []byte(compat), 0))
			before := ipState(t)
			routes := objectRoutes()
			for i := range routes { // the same slots, other ways
				r := &routes[i]
				*r = hosts.Route{Destination: r.Destination, Table: r.Table, Metric: r.Metric, Via: netip.MustParseAddr("10.0.0.9"), Device: "lan0"}
				if r.Destination.Addr().Is6() {
					r.Via = netip.MustParseAddr("fd00:0::9")
				}
			}
			want := network(twoNetworks(), routes...)
			changes := diffNow(t, sys, want)
			refused(t, sys, changes, "a route that bird made is in its place; adopt = true in the spec takes it over", `it is "10.91.0.0/16 via 10.0.0.2 dev lan0"`)
			if d := cmp.Diff(before, ipState(t)); d != "" || len(changes) != len(routes) {
				t.Errorf("%d of %d routes are in the way, and trying them changed (-before +after):\n%s", len(changes), len(routes), d)
			}

			for i := range routes {
				routes[i].Adopt = true
			}
			want = network(twoNetworks(), routes...)
			thereAndBack(t, sys, want)
		})
	}
}

// TestNexthopObjectThatGoes takes its routes along, and its place in a group: a
// spec that says the same is then missing routes, which are made, and has one of
// fewer ways in the way, which stays its maker's.
func TestNexthopObjectThatGoes(t *testing.T) {
	sys := withNexthopObjects(t)
	want := network(twoNetworks(), objectRoutes()...)
	converge(t, sys, want)
	ip(t, "nexthop del id 1")
	ip(t, "nexthop del id 7")
	changes := diffNow(t, sys, want)
	var got []string
	for _, c := range changes {
		got = append(got, string(c.Action)+" "+c.Key)
	}
	expected := []string{
		"create route 10.91.0.0/16", "update route 10.92.0.0/16", "create route 10.96.0.0/16 metric 7",
		"create route fd91::/64", "update route fd92::/64 table 100",
	}
	if d := cmp.Diff(expected, got); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}
	refused(t, sys, changes, `it is "10.92.0.0/16 via 10.0.1.2 dev lan1"`, `it is "fd92::/64 via fd00:1::2 dev lan1 table 100 metric 1024"`)
	if left := diffNow(t, sys, want); len(left) != 2 {
		t.Errorf("there is still\n%s", printed(left))
	}
}
