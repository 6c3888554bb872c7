package hosts

import (
	"net/netip"
	"slices"
)

// ipv6Metric is what the kernel makes of an IPv6 route without a metric
// (IP6_RT_PRIO_USER of linux/ipv6_route.h).
const ipv6Metric = 1024

func (d *draft) checkRoutes() {
	type identity struct {
		to            netip.Prefix
		table, metric int
	}
	seen := map[identity]*node{}
	for i, n := range d.items("network.route") {
		r := d.spec.Network.Routes[i]
		if !d.checkRoute(n, r) {
			continue
		}
		id := identity{r.Destination, r.Table, r.Metric}
		if r.Metric == 0 && r.Destination.Addr().Is6() {
			id.metric = ipv6Metric
		}
		if other := seen[id]; other != nil {
			d.at(n, "is a second route to %s with the same metric%s: the first is at %s", r.Destination, inTable(r.Table), other.place())
		}
		seen[id] = n
	}
}

func inTable(table int) string {
	if table == 0 {
		return ""
	}
	return " and table"
}

// checkRoute checks one route and tells whether it is complete.
func (d *draft) checkRoute(n *node, r Route) bool {
	if n.broken() {
		return false
	}
	if n.get("destination") == nil {
		d.missing(n.file, n, "network.route.destination", "is missing: a prefix or \"default\"")
		return false
	}
	if r.Table == localTable {
		d.at(n.get("table"), "%d is the kernel's own table of the host's addresses", r.Table)
		return false
	}
	if r.Type != RouteUnicast {
		return d.checkRouteWithoutWay(n, r)
	}
	return d.checkWays(n, r) && d.checkRouteSource(n, r) && d.checkRouteMTU(n, r)
}

// checkRouteWithoutWay checks a route that leads nowhere.
func (d *draft) checkRouteWithoutWay(n *node, r Route) bool {
	for _, key := range []string{"via", "device", "onlink", "nexthops", "source", "mtu"} {
		if at := n.get(key); at != nil {
			d.at(at, "has no effect: a route of the type %q leads nowhere", r.Type)
			return false
		}
	}
	return true
}

// checkWays checks the way, or the ways, of a route.
func (d *draft) checkWays(n *node, r Route) bool {
	hops := n.get("nexthops")
	if hops == nil {
		return d.checkWay(n, r, Nexthop{Via: r.Via, Device: r.Device, OnLink: r.OnLink}, "network.route")
	}
	for _, key := range []string{"via", "device", "onlink"} {
		if at := n.get(key); at != nil {
			d.at(at, "belongs into nexthops, which are all the ways of this route (%s)", hops.place())
			return false
		}
	}
	if len(hops.list) < 2 {
		d.at(hops, "are two ways or more: write a single one as via and device of the route itself")
		return false
	}
	for i, hop := range hops.list {
		if !d.checkWay(hop, r, r.Nexthops[i], "network.route.nexthops") {
			return false
		}
		for j, earlier := range r.Nexthops[:i] {
			if earlier.Via == r.Nexthops[i].Via && earlier.Device == r.Nexthops[i].Device {
				d.at(hop, "is the way of %s again: give that a weight", hops.list[j].place())
				return false
			}
		}
	}
	return true
}

func (d *draft) checkWay(n *node, r Route, way Nexthop, field string) bool {
	to := r.Destination.Addr()
	switch {
	case !way.Via.IsValid() && way.Device == "":
		d.missing(n.file, n, field, "needs via (a gateway), device (a link), or both")
	case way.Via.Is4() && to.Is6():
		d.at(n.get("via"), "%s is not of the same family as the destination %s; only IPv4 can be sent by a gateway of IPv6", way.Via, r.Destination)
	case way.Device != "" && !d.checkKnownLink(n.get("device"), way.Device):
	case way.OnLink && (!way.Via.IsValid() || way.Device == ""):
		d.at(n.get("onlink"), "says that the gateway is on the link, so it needs both: via and device")
	case way.Via.IsValid() && way.Device == "" && way.Via.IsLinkLocalUnicast():
		d.missing(n.file, n, field+".device", "is missing: %s is a link-local address, which means something on one link only", way.Via)
	case way.Via.IsValid() && slices.Contains(d.ownAddresses(), way.Via):
		d.at(n.get("via"), "%s is this host itself", way.Via)
	case d.vrfOf(way.Device) != nil && r.Table != d.vrfOf(way.Device).VRF.Table && n.get("table") == nil && n.path == "network.route":
		vrf := d.vrfOf(way.Device)
		d.warn(n.file, n, "network.route", "leads out of %s, a port of the vrf %s, but is not in its table: write table = %d, or table = %d where that is meant", quote(way.Device), quote(vrf.Name), vrf.VRF.Table, MainTable)
		return true
	default:
		return true
	}
	return false
}

// vrfOf is the VRF that a link is a port of, nil where it is none's.
func (d *draft) vrfOf(name string) *Link {
	l := d.link(name)
	if l == nil || l.Master == "" {
		return nil
	}
	if m := d.link(l.Master); m != nil && m.Kind == LinkVRF && m.VRF != nil {
		return m
	}
	return nil
}

func (d *draft) checkRouteSource(n *node, r Route) bool {
	if r.Source.IsValid() && r.Source.Is4() != r.Destination.Addr().Is4() {
		d.at(n.get("source"), "%s is not of the same family as the destination %s", r.Source, r.Destination)
		return false
	}
	return d.checkOwnAddress(n.get("source"), r.Source)
}

func (d *draft) checkRouteMTU(n *node, r Route) bool {
	at := n.get("mtu")
	if r.Destination.Addr().Is6() && r.MTU > 0 && r.MTU < minIPv6MTU {
		d.at(at, "%d is too small for IPv6: at least %d", r.MTU, minIPv6MTU)
		return false
	}
	if l := d.link(r.Device); l != nil && l.MTU > 0 && r.MTU > l.MTU {
		d.warn(d.file, at, "network.route.mtu", "%d is more than the %d of the link %s", r.MTU, l.MTU, quote(l.Name))
	}
	return true
}

// checkRules checks the policy rules.
func (d *draft) checkRules() {
	type identity struct {
		priority int
		six      bool
	}
	seen := map[identity]*node{}
	for _, n := range d.items("network.rule") {
		if n.broken() || n.table == nil {
			continue
		}
		if n.get("priority") == nil {
			d.missing(n.file, n, "network.rule.priority", "is missing: rules are asked in the order of their priorities")
			continue
		}
		rules := readRules(n)
		for _, r := range rules {
			id := identity{r.Priority, r.IPv6}
			if other := seen[id]; other != nil {
				d.at(n, "is a second rule of the priority %d: the first is at %s", r.Priority, other.place())
				break
			}
			seen[id] = n
		}
		if !n.bad {
			d.checkRule(n, rules[0])
		}
	}
}

func (d *draft) checkRule(n *node, r Rule) {
	if !d.checkRuleFamily(n, r) || !d.checkKnownLink(n.get("iif"), r.Inbound) || !d.checkKnownLink(n.get("oif"), r.Outbound) {
		return
	}
	table, suppress := n.get("table"), n.get("suppress_prefixlength")
	bits := 32
	if r.IPv6 || n.get("family") == nil && !r.From.IsValid() && !r.To.IsValid() {
		bits = 128
	}
	switch {
	case r.Action == actionLookup && table == nil:
		d.missing(n.file, n, "network.rule.table", "is missing: a rule looks up a table, or its action says what else it does")
	case r.Action != actionLookup && table != nil:
		d.at(table, "has no effect: the rule's action is %q (%s)", r.Action, n.get("action").place())
	case r.Action != actionLookup && suppress != nil:
		d.at(suppress, "has no effect: the rule's action is %q (%s)", r.Action, n.get("action").place())
	case suppress != nil && *r.SuppressPrefixLength > bits:
		d.at(suppress, "%d is more than the %d bits of an address", *r.SuppressPrefixLength, bits)
	case n.get("fwmask") != nil && n.get("fwmark") == nil:
		d.at(n.get("fwmask"), "has no effect without fwmark")
	case r.Mark&^r.Mask != 0:
		d.at(n.get("fwmark"), "%#x has bits outside of fwmask %#x, so that no packet could match", r.Mark, r.Mask)
	case (r.Port != 0 || r.SourcePort != 0) && r.Protocol != "tcp" && r.Protocol != "udp":
		at := n.get("port")
		if at == nil {
			at = n.get("source_port")
		}
		d.at(at, "is of tcp and udp: write protocol")
	case r.Action == actionLookup:
		d.checkRuleTable(table, r.Table)
	}
}

func (d *draft) checkRuleFamily(n *node, r Rule) bool {
	family := n.get("family")
	for _, key := range []string{"from", "to"} {
		p := parsed[netip.Prefix](n.get(key))
		switch {
		case !p.IsValid() || p.Addr().Is6() == r.IPv6:
		case family != nil:
			d.at(n.get(key), "%s is not of the rule's family (%s)", p, family.place())
			return false
		default:
			d.at(n.get(key), "%s is not of the same family as from %s", p, r.From)
			return false
		}
	}
	return true
}

// checkRuleTable warns of a rule that looks up a table in which the spec puts
// nothing: most often one of the two numbers has a typing error.
func (d *draft) checkRuleTable(at *node, table int) {
	if table >= 253 && table <= localTable || !d.ok("network.route", "network.link") {
		return
	}
	has := slices.ContainsFunc(d.spec.Network.Routes, func(r Route) bool { return r.Table == table }) ||
		slices.ContainsFunc(d.spec.Network.Links, func(l Link) bool { return l.VRF != nil && l.VRF.Table == table })
	if !has {
		d.warn(d.file, at, "network.rule.table", "no route of the spec and no vrf is in the table %d", table)
	}
}
