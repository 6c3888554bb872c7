package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// flow is what the kernel looks routes up for.
type flow struct {
	way      Way
	from, to netip.Addr // from is not valid where the kernel chooses it
}

// leads returns why nothing that the host sends for the flow gets there, nil
// where it may: every possible answer of the kernel's lookup (fib_rules(7): rule
// by rule, the longest prefix of a table, the lowest metric of a prefix) must be
// a refusal.
func (p picture) leads(f flow) *reason {
	var first *reason
	note := func(why *reason) {
		if first == nil {
			first = why
		}
	}
	for _, rule := range p.rules {
		m := rule.matches(f)
		if m == never {
			continue
		}
		why, open, decided := p.follow(rule, f)
		if open {
			return nil
		}
		if why != nil {
			note(why)
		}
		if decided && m == surely {
			return first
		}
	}
	note(&reason{kind: CutNoRoute, text: fmt.Sprintf("no route would lead to %s", f.to)})
	return first
}

// follow does what a rule that matches says: why it refuses, whether the flow
// may pass, and whether no later rule can be asked.
func (p picture) follow(rule pathRule, f flow) (why *reason, open, decided bool) {
	switch rule.action {
	case ruleLookup:
		return p.lookup(rule, f)
	case ruleRefuse:
		return &reason{
			kind: CutRefused, by: CutBy{Rule: rule.wanted},
			text: fmt.Sprintf("the policy rule %d discards what is sent to %s", rule.priority, f.to),
		}, false, true
	}
	return nil, true, false // what it does is not known here
}

// lookup is what a table answers.
func (p picture) lookup(rule pathRule, f flow) (why *reason, open, decided bool) {
	for _, r := range p.routes { // longest prefix first, lowest metric first
		if r.table != rule.table || !r.to.Contains(f.to) || !p.exists(r) {
			continue
		}
		if rule.suppress != nil && r.to.Bits() <= *rule.suppress || r.kind == routeThrow {
			if r.maybe {
				continue
			}
			return why, false, false // on to the next rule
		}
		refusal := p.refusal(r, f)
		if refusal == nil {
			return nil, true, true
		}
		if why == nil {
			why = refusal
		}
		if !r.maybe {
			return why, false, true
		}
	}
	return why, false, false
}

// exists tells whether the route may exist: the kernel removes it with its link,
// and when the link goes down.
func (p picture) exists(r pathRoute) bool {
	if r.kind != routeUnicast || len(r.hops) == 0 {
		return true
	}
	return slices.ContainsFunc(r.hops, func(hop string) bool {
		l, there := p.links[hop]
		return hop == "" || there && !l.down
	})
}

// refusal is why the route's packets do not arrive, nil where they may.
func (p picture) refusal(r pathRoute, f flow) *reason {
	by := CutBy{}
	if r.wanted {
		by = CutBy{Route: r.to, Table: r.table}
	}
	switch r.kind {
	case routeRefuse:
		return &reason{kind: CutRefused, by: by, text: fmt.Sprintf("the %s route to %s discards what is sent to %s", r.word, r.to, f.to)}
	case routeUnicast:
	default:
		return nil
	}
	var why *reason
	for _, hop := range r.hops {
		refusal := p.intoTunnel(hop, f)
		if refusal == nil {
			return nil
		}
		why = refusal
	}
	if why != nil {
		why.text = fmt.Sprintf("the route to %s leads into %s, %s", r.to, join(r.hops), why.text)
		if by.Route.IsValid() {
			why.by = by
		}
	}
	return why
}

// intoTunnel is why a packet that is routed into a WireGuard device does not
// arrive: the device's own outer packets, and those for an address that no peer
// is allowed (cryptokey routing).
func (p picture) intoTunnel(link string, f flow) *reason {
	w := p.wireguard
	if w == nil || link != w.Interface {
		return nil
	}
	if f.way.Tunnel == link {
		return &reason{kind: CutOwnTunnel, by: CutBy{WireGuard: true}, text: fmt.Sprintf("whose own packets to %s they would be", f.to)}
	}
	for _, peer := range w.Peers {
		if slices.ContainsFunc(peer.AllowedIPs, func(allowed netip.Prefix) bool { return allowed.Contains(f.to) }) {
			return nil
		}
	}
	return &reason{kind: CutNoPeer, by: CutBy{WireGuard: true}, text: fmt.Sprintf("none of whose peers is allowed %s", f.to)}
}

// mayCarry tells whether a route with the destination may bring packets of the
// remote end: not where a longer prefix says that it is elsewhere on a link.
func (p picture) mayCarry(to netip.Prefix, remote netip.Addr) bool {
	for _, r := range p.routes {
		if r.onLink && r.kind == routeUnicast && r.to.Contains(remote) && p.exists(r) {
			return r.to.Bits() <= to.Bits()
		}
	}
	return true
}

// matches tells whether the rule matches the flow. What the host itself sends
// comes in by lo; its mark is whatever somebody sets.
func (r pathRule) matches(f flow) match {
	if r.six != f.to.Is6() {
		return never
	}
	if r.unknown {
		return maybe
	}
	sure := surely
	both := func(m match) { sure = min(sure, m) }
	if r.to.IsValid() && !r.to.Contains(f.to) {
		return never
	}
	if r.from.IsValid() {
		switch {
		case !f.from.IsValid():
			both(maybe)
		case !r.from.Contains(f.from):
			return never
		}
	}
	if r.inbound != "" && r.inbound != "lo" {
		return never
	}
	if r.outbound != "" || r.marked || r.ports {
		both(maybe)
	}
	if r.protocol != "" && r.protocol != f.way.Protocol {
		return never
	}
	return sure
}

// sortPaths orders routes as the kernel looks at them, and rules.
func sortPaths(routes []pathRoute, rules []pathRule) {
	slices.SortStableFunc(routes, func(a, b pathRoute) int {
		return cmp.Or(cmp.Compare(b.to.Bits(), a.to.Bits()), cmp.Compare(a.metric, b.metric))
	})
	slices.SortStableFunc(rules, func(a, b pathRule) int { return cmp.Compare(a.priority, b.priority) })
}
