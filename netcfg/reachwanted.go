package netcfg

import (
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// wantedPath is a wanted route as packets see it.
func (p picture) wantedPath(w Route) pathRoute {
	r := pathRoute{
		table: w.Table, to: w.Destination, metric: kernelMetric(&w),
		onLink: !w.gateway(), own: true, wanted: true,
	}
	if r.table == 0 {
		r.table = hosts.MainTable
	}
	// The kernel refuses a route whose gateway or source it does not know.
	r.maybe = w.Source.IsValid() && !p.isLocal(w.Source)
	if w.Type != "" {
		r.kind, r.word = routeRefuse, string(w.Type)
		return r
	}
	ways := w.Nexthops
	if len(ways) == 0 {
		ways = []Nexthop{{Via: w.Via, Device: w.Device, OnLink: w.OnLink}}
	}
	for _, n := range ways {
		r.hops = append(r.hops, n.Device)
		r.maybe = r.maybe || n.Device == "" || n.Via.IsValid() && !n.OnLink && !p.onLink(n.Device, n.Via)
	}
	return r
}

// onLink tells whether the gateway lies in a network of the link.
func (p picture) onLink(link string, gateway netip.Addr) bool {
	return slices.ContainsFunc(p.addresses, func(a pathAddress) bool {
		return a.link == link && a.prefix.Contains(gateway)
	})
}

// rulesAfter are the rules that stay and those that are wanted. A host of which
// nothing is known has the kernel's own.
func rulesAfter(want State, now Surroundings) []pathRule {
	var rules []pathRule
	for _, r := range now.rules {
		// Ours go unless they are wanted; somebody else's at the same place may
		// be adopted, and so go or stay.
		place := func(w Rule) bool { return w.Priority == r.priority && w.IPv6 == r.six }
		switch {
		case r.own:
			continue
		case slices.ContainsFunc(want.Rules, func(w Rule) bool { return w.Adopt && place(w) }):
			r.unknown = true
		}
		rules = append(rules, r)
	}
	if len(now.rules) == 0 {
		for _, six := range []bool{false, true} {
			rules = append(rules, pathRule{priority: 32766, six: six, table: hosts.MainTable})
		}
	}
	for _, w := range want.Rules {
		rules = append(rules, wantedRule(w))
	}
	return rules
}

func wantedRule(w Rule) pathRule {
	r := pathRule{
		priority: w.Priority, six: w.IPv6, from: w.From, to: w.To, inbound: w.Inbound, outbound: w.Outbound,
		marked: w.Mask != 0, ports: w.SourcePort != 0 || w.Port != 0, protocol: w.IPProtocol,
		table: w.Table, own: true, wanted: w.Priority,
	}
	if w.Action != "" {
		r.action = ruleRefuse
	}
	if w.ShorterThan > 0 {
		longest := w.ShorterThan - 1
		r.suppress = &longest
	}
	return r
}
