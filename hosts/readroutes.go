package hosts

import (
	"math"
	"net/netip"
)

func readRoute(n *node) Route {
	r := Route{
		Type:   RouteType(parsed[string](n.get("type"))),
		Table:  readTable(n.get("table")),
		Via:    parsed[netip.Addr](n.get("via")),
		Device: parsed[string](n.get("device")),
		OnLink: parsed[bool](n.get("onlink")),
		Metric: parsed[int](n.get("metric")),
		Source: parsed[netip.Addr](n.get("source")),
		MTU:    parsed[int](n.get("mtu")),
		Adopt:  parsed[bool](n.get("adopt")),
	}
	if hops := n.get("nexthops"); hops != nil {
		for _, hop := range hops.list {
			r.Nexthops = append(r.Nexthops, Nexthop{
				Via:    parsed[netip.Addr](hop.get("via")),
				Device: parsed[string](hop.get("device")),
				OnLink: parsed[bool](hop.get("onlink")),
				Weight: parsed[int](hop.get("weight")),
			})
		}
	}
	r.Destination = readDestination(n, r)
	return r
}

// readDestination takes a default route to be of the family of its gateways, or
// of its source.
func readDestination(n *node, r Route) netip.Prefix {
	to := parsed[destination](n.get("destination"))
	if !to.isDefault {
		return to.prefix
	}
	gateway := r.Via
	for _, hop := range r.Nexthops {
		if !gateway.IsValid() {
			gateway = hop.Via
		}
	}
	if gateway.Is6() || !gateway.IsValid() && r.Source.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// readTable writes the main table as the spec does: as none.
func readTable(n *node) int {
	if t := parsed[int](n); t != MainTable {
		return t
	}
	return 0
}

// readRules reads one rule of the file: two where it is for both families.
func readRules(n *node) []Rule {
	r := Rule{
		Priority:             parsed[int](n.get("priority")),
		From:                 parsed[netip.Prefix](n.get("from")),
		To:                   parsed[netip.Prefix](n.get("to")),
		Inbound:              parsed[string](n.get("iif")),
		Outbound:             parsed[string](n.get("oif")),
		Mark:                 uint32(parsed[int](n.get("fwmark"))),
		Mask:                 uint32(parsed[int](n.get("fwmask"))),
		Protocol:             parsed[string](n.get("protocol")),
		SourcePort:           uint16(parsed[int](n.get("source_port"))),
		Port:                 uint16(parsed[int](n.get("port"))),
		Table:                parsed[int](n.get("table")),
		Action:               parsed[string](n.get("action")),
		SuppressPrefixLength: optional[int](n.get("suppress_prefixlength")),
		Adopt:                parsed[bool](n.get("adopt")),
	}
	if n.get("fwmark") != nil && n.get("fwmask") == nil {
		r.Mask = math.MaxUint32
	}
	set(&r.Action, actionLookup)
	var rules []Rule
	for _, six := range ruleFamilies(n) {
		of := r
		of.IPv6 = six
		rules = append(rules, of)
	}
	return rules
}

// ruleFamilies tells of which families a rule is, by whether it is IPv6: the
// one written, else that of its addresses, else both.
func ruleFamilies(n *node) []bool {
	if family := parsed[string](n.get("family")); family != "" {
		return []bool{family == familyIPv6}
	}
	for _, key := range []string{"from", "to"} {
		if p := parsed[netip.Prefix](n.get(key)); p.IsValid() {
			return []bool{p.Addr().Is6()}
		}
	}
	return []bool{false, true}
}
