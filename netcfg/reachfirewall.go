package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
)

// match is whether a rule matches a packet as far as that can be told.
type match int

const (
	never match = iota
	maybe
	surely
)

// refuses returns why the firewall refuses a new connection of the way that
// comes in by any of the links, nil where it may accept one.
func (p picture) refuses(w Way, links []string) *reason {
	f := p.firewall
	if f == nil || f.Base != firewallBase || len(f.Other) > 0 {
		return nil
	}
	if len(links) == 0 {
		links = []string{""} // any
	}
	by := ""
	for _, link := range links {
		refused, rule := f.refuses(w, link)
		if !refused {
			return nil
		}
		by = rule
	}
	what := fmt.Sprintf("no rule of the firewall accepts %s %d from %s", w.Protocol, w.Local.Port(), w.Remote.Addr())
	if by != "" {
		what = fmt.Sprintf("the rule %q of the firewall drops %s %d from %s", by, w.Protocol, w.Local.Port(), w.Remote.Addr())
	}
	if links[0] != "" {
		what += " on " + join(links)
	}
	return &reason{
		kind: CutFirewall, by: CutBy{Firewall: true},
		text: what + "; connections that are open stay, a new one would be refused",
	}
}

// refuses tells whether a new connection is certainly dropped, and by which
// rule where it is one that drops.
func (f *Firewall) refuses(w Way, link string) (refused bool, by string) {
	for _, r := range f.Rules {
		switch m := r.matches(w, link); {
		case m == never, m == maybe && r.Drop:
		case r.Drop:
			return true, r.Name
		default:
			return false, ""
		}
	}
	return true, ""
}

// matches tells whether the rule matches the first packet of a connection.
func (r FirewallRule) matches(w Way, link string) match {
	if r.Other != "" {
		return maybe
	}
	if len(r.States) > 0 || len(r.Types) > 0 || r.Protocol != "" && r.Protocol != w.Protocol {
		return never // a new connection is in none of the states, and is no ICMP
	}
	sure := surely
	if len(r.Interfaces) > 0 && !slices.Contains(r.Interfaces, link) {
		// Nobody from outside comes in by the loopback.
		if link != "" || slices.Equal(r.Interfaces, []string{"lo"}) {
			return never
		}
		sure = maybe
	}
	from := w.Remote.Addr().Unmap()
	if len(r.From) > 0 && !slices.ContainsFunc(r.From, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return never
	}
	if at := w.Local.Addr().Unmap(); len(r.To) > 0 || len(r.NotTo) > 0 {
		among := func(list []netip.Prefix) bool {
			return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(at) })
		}
		switch {
		case !at.IsValid():
			sure = maybe
		case len(r.To) > 0 && !among(r.To) || among(r.NotTo):
			return never
		}
	}
	// The next connection's port is anybody's guess, and so is whether it comes
	// within the limit, or is rewritten on the way.
	if len(r.SourcePorts) > 0 || r.Limit != nil || r.DNAT || len(r.Outbound) > 0 {
		sure = maybe
	}
	port := w.Local.Port()
	holds := func(p PortRange) bool { return p.First <= port && port <= p.Last }
	switch {
	case len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, holds):
	case port == 0:
		sure = maybe
	default:
		return never
	}
	return sure
}

// arrivalLinks are the names of links by which packets of the way may come in:
// those over which a route leads to the other end as the routers know the host,
// those that have the address at which the way ends, and what these links are
// ports of once the picture is true.
func (p picture) arrivalLinks(arrivals picture, w Way) []string {
	remote, local := w.Remote.Addr().Unmap(), w.Local.Addr().Unmap()
	var names []string
	add := func(link string) {
		for _, name := range p.seenAs(link) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, r := range arrivals.routes {
		if r.kind == routeUnicast && r.to.Contains(remote) && arrivals.mayCarry(r.to, remote) {
			for _, hop := range r.hops {
				add(hop)
			}
		}
	}
	for _, a := range slices.Concat(arrivals.addresses, p.addresses) {
		switch {
		case a.prefix.Addr() != local:
		case a.link == "lo" || p.links[a.link].kind == "dummy":
			return nil // on no wire: its packets come in by any
		default:
			add(a.link)
		}
	}
	slices.Sort(names)
	return names
}

// seenAs returns the names under which the firewall may see packets that come
// in by the link: of a port of a bridge or a bond the master's alone, of a port
// of a VRF both (vrf.rst), of one of another master either.
func (p picture) seenAs(name string) []string {
	names := []string{name}
	for range len(p.links) {
		master := p.links[name].master
		if master == "" {
			break
		}
		if kind := p.links[master].kind; kind == "bridge" || kind == "bond" {
			names = names[:0]
		}
		names = append(names, master)
		name = master
	}
	return names
}
