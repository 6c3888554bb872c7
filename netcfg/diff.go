package netcfg

import (
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Diff returns the changes that lead from have to want, in the order in which
// they are to be applied. It is pure.
//
// The order: links that must be made anew are deleted; links are made, masters
// before ports and parents before what lies upon them; addresses are added;
// WireGuard is configured; routes are added or replaced, those without a gateway
// first, since they may lead to the gateways of others, those that swallow
// packets last;
// policy rules are added, which lead into the tables that are filled now; the
// firewall is replaced in one transaction, which needs no links to exist. Only
// then is deleted what is no longer wanted: rules, routes, addresses, links. Adding
// before deleting keeps the host reachable all the time while its address and
// gateway change, by the old ones until the new ones stand.
//
// Effects: adding is quiet. Deleting or replacing an address, a link or a route
// may cut connections and is disconnect, as is the MTU of a physical link
// (drivers reset the hardware for it), putting an existing link under another
// master, a new route that takes over from one with a higher metric, and every
// policy rule.
//
// A wanted link that cannot be had (a physical one that is not on this host, a
// name that somebody else's link of another kind has) is one change that fails
// with the reason when applied; its addresses and routes are planned once it is
// there.
func Diff(have, want State) []plan.Change {
	want = want.resolved(have)
	links := diffLinks(have, want)
	tunnel, tunnelDrop := placeWireGuard(have.WireGuard, want.WireGuard, links)
	have = have.without(links.gone).unrouted(links.cycled)
	addresses := diffAddresses(have, want, links)
	routes := diffRoutes(have.flushed(addresses.flushed).unsourced(addresses.cleared), want, links, addresses.lostSources)
	rules := diffPolicyRules(have, want)

	var changes []plan.Change
	for _, part := range [][]plan.Change{
		links.remake, links.make, addresses.add, addresses.deleteFirst, tunnel,
		routes.put, rules.put, diffFirewall(have.Firewall, want.Firewall), rules.delete, routes.delete,
		addresses.delete, links.drop, tunnelDrop,
	} {
		changes = append(changes, part...)
	}
	return changes
}

// placeWireGuard returns the changes of WireGuard that come before the routes
// and those that come after, and notes in links what becomes of the device: a
// device that is only dropped goes last, one that makes room for another goes
// first, and over one that is not to be had there are no routes.
func placeWireGuard(have, want *WireGuard, links linkDiff) (before, after []plan.Change) {
	changes := diffWireGuard(have, want)
	switch {
	case want == nil:
		if have != nil && have.Owned {
			links.doomed[have.Interface] = true
		}
		return nil, changes
	case have != nil && have.Owned && have.Interface != want.Interface:
		links.gone[have.Interface] = true
	case have != nil && have.Device == SomeDevice:
		links.absent[want.Interface] = true
	}
	return changes, nil
}

func change(key string, action plan.Action, effect plan.Effect, reason, before, after string, o op) plan.Change {
	return plan.Change{
		Domain: Domain, Key: key, Action: action, Effect: effect,
		Reason: reason, Before: before, After: after, Payload: o,
	}
}

// The reasons that several kinds of changes share.
const (
	reasonMissing  = "the spec names it and the host lacks it"
	reasonUnwanted = "nodeagent made it and the spec no longer names it"
)

// link returns the link with the name.
func (s State) link(name string) (Link, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// byName indexes links.
func byName(links []Link) map[string]Link {
	index := make(map[string]Link, len(links))
	for _, l := range links {
		index[l.Name] = l
	}
	return index
}

// without returns the state as it is once the links are gone, with what the
// kernel removes along with them: their addresses, the routes over them, and
// the master of their ports.
func (s State) without(gone map[string]bool) State {
	if len(gone) == 0 {
		return s
	}
	left := s
	left.Links, left.Routes = nil, nil
	for _, l := range s.Links {
		if gone[l.Name] {
			continue
		}
		if gone[l.Master] {
			// A bond takes its ports down as it leaves them.
			l.Up = l.Up && byName(s.Links)[l.Master].Kind != hosts.LinkBond
			l.Master, l.Port, l.VLANs = "", nil, nil
		}
		left.Links = append(left.Links, l)
	}
	for i, r := range s.Routes {
		// An IPv4 route goes with any of its links, an IPv6 one keeps its other ways.
		if r, any := r.withoutLinks(gone); any && (r.Destination.Addr().Is6() || !s.Routes[i].over(gone)) {
			left.Routes = append(left.Routes, r)
		}
	}
	return left
}

// unrouted returns the state as it is once the links have been taken down and
// up, upon which the kernel removes every route over them.
func (s State) unrouted(links map[string]bool) State {
	if len(links) == 0 {
		return s
	}
	left := s
	left.Routes = nil
	for _, r := range s.Routes {
		if !links[r.Device] {
			left.Routes = append(left.Routes, r)
		}
	}
	return left
}

// unsourced returns the state as it is once the kernel has taken the addresses
// from the routes that prefer them.
func (s State) unsourced(addresses map[netip.Addr]bool) State {
	if len(addresses) == 0 {
		return s
	}
	left := s
	left.Routes = slices.Clone(s.Routes)
	for i, r := range left.Routes {
		if addresses[r.Source] {
			left.Routes[i].Source = netip.Addr{}
		}
	}
	return left
}

// flushed returns the state as it is once the links have lost their last IPv4
// address, upon which the kernel removes every IPv4 route over them
// (fib_disable_ip).
func (s State) flushed(links map[string]bool) State {
	if len(links) == 0 {
		return s
	}
	left := s
	left.Routes = nil
	for _, r := range s.Routes {
		if r.Destination.Addr().Is6() {
			left.Routes = append(left.Routes, r)
		} else if r, any := r.withoutLinks(links); any {
			left.Routes = append(left.Routes, r)
		}
	}
	return left
}

// creatable tells whether nodeagent makes links of the kind.
func creatable(kind hosts.LinkKind) bool {
	switch kind {
	case hosts.LinkBridge, hosts.LinkVeth, hosts.LinkBond, hosts.LinkVLAN, hosts.LinkVXLAN, hosts.LinkDummy, hosts.LinkMacvlan, hosts.LinkVRF:
		return true
	}
	return false
}
