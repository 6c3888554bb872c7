package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// Route is one route.
type Route struct {
	Destination netip.Prefix    // masked; 0.0.0.0/0 and ::/0 for the default
	Type        hosts.RouteType // "" for unicast; the others have neither Via nor Device
	Table       int             // 0 for the main table
	Via         netip.Addr      // invalid where the destination is on the link
	Device      string          // wanted: "" lets the kernel choose
	OnLink      bool            // Via is on the link though no address says so
	// Nexthops are several ways that share the traffic; Via, Device and OnLink are
	// then empty. Those of our routes are sorted, those of others in the kernel's
	// order, by which it shares out.
	Nexthops []Nexthop
	Metric   int        // wanted: 0 is the kernel's default, 1024 for IPv6
	Source   netip.Addr // preferred source address, invalid for none
	MTU      int        // in bytes, 0 for the link's
	// Scope is the scope of an IPv4 route ("global", "site", "link") where it is
	// another than that which nodeagent gives routes of its sort: link to those
	// without a gateway, global to others. Observed, and wanted on the way back.
	Scope string
	// Protocol is who made the route (rtm_protocol), [RouteProtocol] for ours. A
	// wanted route of ours that exists with the same values satisfies whoever
	// made it, and is left to its maker. Wanted is another protocol only on the
	// way back ([Back]), where the route is to be its maker's again.
	Protocol int
	// Adopt takes over a route to the same destination, table and metric that
	// somebody else made. Wanted only.
	Adopt bool
	// Object is the kernel's nexthop object (ip-nexthop(8)) by which somebody
	// else gave the route its ways, 0 for none. The ways are in the other fields
	// as well. Observed only.
	Object int
	// Beyond names what the route has and a Route cannot say ("metrics other than
	// mtu"); it does not matter to a spec, but is lost when the route is written
	// again. Observed only.
	Beyond string
	// Other names what no spec can say ("encapsulated"); a route with it never
	// satisfies. Observed only.
	Other string
}

// Nexthop is one of several ways of a route.
type Nexthop struct {
	Via    netip.Addr // invalid where the destination is on the link
	Device string     // wanted: "" lets the kernel choose
	OnLink bool
	Weight int // share of the traffic, 1 to 256
}

// wantRoute is the route that the spec says.
func wantRoute(s hosts.Route, spec *hosts.Spec, links []Link) Route {
	r := Route{
		Destination: s.Destination.Masked(), Type: s.Type, Table: s.Table, Metric: s.Metric,
		Source: s.Source, MTU: s.MTU, Protocol: RouteProtocol, Adopt: s.Adopt,
	}
	if r.Type == hosts.RouteUnicast {
		r.Type = ""
	}
	if r.Table == hosts.MainTable {
		r.Table = 0
	}
	towards := func(via netip.Addr, device string) string {
		if device == "" && r.Type == "" {
			return deviceTowards(via, spec, links)
		}
		return device
	}
	for _, n := range s.Nexthops {
		r.Nexthops = append(r.Nexthops, Nexthop{Via: n.Via, Device: towards(n.Via, n.Device), OnLink: n.OnLink, Weight: max(n.Weight, 1)})
	}
	if len(r.Nexthops) == 0 {
		r.Via, r.Device, r.OnLink = s.Via, towards(s.Via, s.Device), s.OnLink
	}
	return r.normal()
}

// normal returns the route in the one form that its values have: our ways
// sorted, a single one in the route itself.
func (r Route) normal() Route {
	switch {
	case r.Type != "":
		r.Via, r.Device, r.OnLink, r.Nexthops = netip.Addr{}, "", false, nil
	case len(r.Nexthops) == 1:
		n := r.Nexthops[0]
		r.Via, r.Device, r.OnLink, r.Nexthops = n.Via, n.Device, n.OnLink, nil
	case len(r.Nexthops) > 1 && r.Protocol == RouteProtocol && !slices.IsSortedFunc(r.Nexthops, compareNexthops):
		r.Nexthops = slices.SortedFunc(slices.Values(r.Nexthops), compareNexthops)
	}
	return r
}

func compareNexthops(a, b Nexthop) int {
	return cmp.Or(a.Via.Compare(b.Via), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Weight, b.Weight))
}

// over tells whether one of the route's ways leads over a link that is in the
// set.
func (r *Route) over(links map[string]bool) bool {
	return links[r.Device] || len(r.Nexthops) > 0 && slices.ContainsFunc(r.Nexthops, func(n Nexthop) bool { return links[n.Device] })
}

// withoutLinks returns what is left of the route once the ways over the links
// are gone, and whether anything is.
func (r Route) withoutLinks(links map[string]bool) (Route, bool) {
	if !r.over(links) {
		return r, true
	}
	if len(r.Nexthops) == 0 {
		return r, false
	}
	left := make([]Nexthop, 0, len(r.Nexthops))
	for _, n := range r.Nexthops {
		if !links[n.Device] {
			left = append(left, n)
		}
	}
	if len(left) == 0 {
		return r, false
	}
	r.Nexthops = left
	return r.normal(), true
}

// gateway tells whether the route leads by a gateway: such routes come after
// those without, which may lead to the gateways.
func (r *Route) gateway() bool {
	return r.Via.IsValid() || len(r.Nexthops) > 0
}

// compareSlots orders routes by what the kernel tells them apart by: table,
// destination and metric.
func compareSlots(a, b *Route) int {
	if c := cmp.Compare(a.Table, b.Table); c != 0 {
		return c
	}
	if c := comparePrefixes(a.Destination, b.Destination); c != 0 {
		return c
	}
	return cmp.Compare(kernelMetric(a), kernelMetric(b))
}

// sameSlot tells whether the kernel has room for only one of the two.
func sameSlot(h, w *Route) bool {
	return h.Destination == w.Destination && h.Table == w.Table && kernelMetric(h) == kernelMetric(w)
}

// kernelMetric is the metric with which a route reads back: an IPv6 route
// without one gets 1024 (IP6_RT_PRIO_USER).
func kernelMetric(r *Route) int {
	if r.Metric == 0 && r.Destination.Addr().Is6() {
		return 1024
	}
	return r.Metric
}

// compareRoutes orders by slot, then everything else, so that two reads of the
// same tables give the same order.
func compareRoutes(a, b *Route) int {
	if c := compareSlots(a, b); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.Metric, b.Metric),
		a.Via.Compare(b.Via),
		cmp.Compare(a.Device, b.Device),
		slices.CompareFunc(a.Nexthops, b.Nexthops, compareNexthops),
		a.Source.Compare(b.Source),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Type, b.Type),
		cmp.Compare(a.MTU, b.MTU),
		cmp.Compare(a.Scope, b.Scope),
		cmp.Compare(a.Other, b.Other),
	)
}

// sortRoutes sorts. The kernel lists a table almost in this order, so that
// looking first is cheaper than sorting.
func sortRoutes(routes []Route) {
	compare := func(a, b Route) int { return compareRoutes(&a, &b) }
	for i := 1; i < len(routes); i++ {
		if compareRoutes(&routes[i-1], &routes[i]) > 0 {
			slices.SortStableFunc(routes, compare)
			return
		}
	}
}

// sortedRoutes returns the routes in order, the slice itself where they are.
func sortedRoutes(routes []Route) []Route {
	for i := 1; i < len(routes); i++ {
		if compareRoutes(&routes[i-1], &routes[i]) > 0 {
			routes = slices.Clone(routes)
			sortRoutes(routes)
			break
		}
	}
	return routes
}

// compact drops routes that stand twice in the sorted list.
func compactRoutes(routes []Route) []Route {
	return slices.CompactFunc(routes, func(a, b Route) bool { return sameRoute(&a, &b) })
}

// sameRoute tells whether two routes are equal in every field.
func sameRoute(a, b *Route) bool {
	return a.Destination == b.Destination && a.Type == b.Type && a.Table == b.Table && a.Via == b.Via &&
		a.Device == b.Device && a.OnLink == b.OnLink && slices.Equal(a.Nexthops, b.Nexthops) &&
		a.Metric == b.Metric && a.Source == b.Source && a.MTU == b.MTU && a.Scope == b.Scope && a.Protocol == b.Protocol &&
		a.Adopt == b.Adopt && a.Object == b.Object && a.Beyond == b.Beyond && a.Other == b.Other
}

// satisfies tells whether the route that is there does what the wanted one
// says. Of a route that somebody else made only what the spec sets counts.
func satisfies(h, w *Route) bool {
	ours := h.Protocol == RouteProtocol
	maker := cmp.Or(w.Protocol, RouteProtocol)
	return h.Other == "" && h.Type == w.Type && sameWays(h, w, ours) &&
		(h.Protocol == maker || maker == RouteProtocol && !w.Adopt) &&
		(h.Source == w.Source || !ours && !w.Source.IsValid()) &&
		(h.MTU == w.MTU || !ours && w.MTU == 0) &&
		(h.Scope == w.Scope || maker == RouteProtocol)
}

// sameWays compares ways; exact asks for the same on-link flag as well.
func sameWays(h, w *Route, exact bool) bool {
	if w.Type != "" {
		return true // neither has any
	}
	if len(h.Nexthops) != len(w.Nexthops) {
		return false
	}
	same := func(h, w Nexthop) bool {
		return h.Via == w.Via && h.Weight == w.Weight && (w.Device == "" || h.Device == w.Device) &&
			(!exact || h.OnLink == w.OnLink || !h.Via.IsValid())
	}
	if len(w.Nexthops) == 0 {
		return same(Nexthop{Via: h.Via, Device: h.Device, OnLink: h.OnLink}, Nexthop{Via: w.Via, Device: w.Device, OnLink: w.OnLink})
	}
	// Those without a wanted device may stand elsewhere in the observed order.
	left := slices.Clone(h.Nexthops)
	for _, device := range []bool{true, false} {
		for _, n := range w.Nexthops {
			if (n.Device != "") != device {
				continue
			}
			i := slices.IndexFunc(left, func(h Nexthop) bool { return same(h, n) })
			if i < 0 {
				return false
			}
			left = slices.Delete(left, i, i+1)
		}
	}
	return true
}

// String returns the route in the words of ip-route(8):
// "default via 192.0.2.1 dev lan0 table 100 metric 100 src 192.0.2.10".
func (r Route) String() string {
	var b strings.Builder
	if r.Type != "" {
		fmt.Fprintf(&b, "%s ", r.Type)
	}
	b.WriteString(destinationWord(r.Destination))
	if r.Other != "" {
		fmt.Fprintf(&b, " %s", r.Other)
	}
	writeWay(&b, Nexthop{Via: r.Via, Device: r.Device, OnLink: r.OnLink})
	if r.Table != 0 {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if r.Scope != "" {
		fmt.Fprintf(&b, " scope %s", r.Scope)
	}
	for _, n := range r.Nexthops {
		b.WriteString(" nexthop")
		writeWay(&b, n)
		fmt.Fprintf(&b, " weight %d", n.Weight)
	}
	return b.String()
}

func writeWay(b *strings.Builder, n Nexthop) {
	if n.Via.IsValid() {
		b.WriteString(" via ")
		b.WriteString(n.Via.String())
	}
	if n.Device != "" {
		b.WriteString(" dev ")
		b.WriteString(n.Device)
	}
	if n.OnLink {
		b.WriteString(" onlink")
	}
}

func destinationWord(p netip.Prefix) string {
	switch {
	case p.Bits() == 0:
		return "default"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// routeMakers are the protocol numbers that rtnetlink.h gives names to, as far
// as they are met on hosts.
var routeMakers = map[int]string{
	0: "unknown", 1: "an ICMP redirect", 2: "the kernel", 3: "hand (protocol boot)", 4: "an administrator (protocol static)",
	9: "router advertisement", 11: "zebra", 12: "bird", 16: "DHCP", 18: "keepalived",
	186: "BGP", 187: "IS-IS", 188: "OSPF", 189: "RIP", RouteProtocol: "nodeagent",
}

// maker says who made a route or a rule by its protocol: "DHCP", "protocol 77".
func maker(protocol int) string {
	if name, ok := routeMakers[protocol]; ok {
		return name
	}
	return fmt.Sprintf("protocol %d", protocol)
}

func (r *Route) maker() string { return maker(r.Protocol) }

// routeKey names the slot of a route.
func routeKey(r *Route) string {
	key := "route " + r.Destination.String()
	if r.Table != 0 {
		key += fmt.Sprintf(" table %d", r.Table)
	}
	if r.Metric != 0 {
		key += fmt.Sprintf(" metric %d", r.Metric)
	}
	return key
}
