package netcfg

import (
	"fmt"
	"net/netip"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// addressDiff is the changes of addresses by when they happen, and what the
// kernel does to routes because of them.
type addressDiff struct {
	add         []plan.Change // additions, and IPv6 addresses that change their prefix length
	deleteFirst []plan.Change // deletions after which wanted routes must be made again
	delete      []plan.Change // all other deletions, after the routes

	flushed     map[string]bool     // links that lose their IPv4 routes to deleteFirst
	lostSources map[netip.Addr]bool // IPv4 addresses that the host will not have any more
}

func diffAddresses(have, want State, links linkDiff) addressDiff {
	d := addressDiff{flushed: map[string]bool{}}
	wanted := byName(want.Links)
	existing := byName(have.Links)
	for _, w := range want.Links {
		if !links.absent[w.Name] {
			d.link(existing[w.Name], w, want.Routes)
		}
	}
	for _, h := range have.Links {
		_, isWanted := wanted[h.Name]
		if !isWanted && !links.doomed[h.Name] {
			d.link(h, Link{Name: h.Name}, want.Routes)
		}
	}
	d.lostSources = lostSources(have, want, links)
	return d
}

// link plans the addresses of one link; h is the zero Link where it is yet to
// be made.
func (d *addressDiff) link(h, w Link, routes []Route) {
	unwanted := map[netip.Prefix]bool{} // ours and to be deleted
	for _, a := range h.Addresses {
		if a.Owned && !hasPrefix(w.Addresses, a.Prefix) {
			unwanted[a.Prefix] = true
		}
	}
	for _, a := range w.Addresses {
		if hasPrefix(h.Addresses, a.Prefix) {
			continue
		}
		if old, ok := sameIPv6(h.Addresses, a.Prefix); ok {
			d.add = append(d.add, replacement(w.Name, old, a.Prefix))
			delete(unwanted, old.Prefix)
			continue
		}
		d.add = append(d.add, change(addressKey(a.Prefix, w.Name), plan.ActionCreate, plan.Quiet,
			reasonMissing, "", a.Prefix.String(), addAddress{link: w.Name, prefix: a.Prefix}))
	}
	flush := losesIPv4(h, w, unwanted) && hasIPv4Route(routes, w.Name)
	for _, a := range h.Addresses { // in order
		if !unwanted[a.Prefix] {
			continue
		}
		c := change(addressKey(a.Prefix, w.Name), plan.ActionDelete, plan.Disconnect,
			reasonUnwanted, a.Prefix.String(), "", deleteAddress{link: w.Name, prefix: a.Prefix})
		if flush && a.Prefix.Addr().Is4() {
			c.Reason += "; with it go the IPv4 routes over the link, so it goes before they are made"
			d.deleteFirst = append(d.deleteFirst, c)
			d.flushed[w.Name] = true
		} else {
			d.delete = append(d.delete, c)
		}
	}
}

func replacement(link string, old Address, prefix netip.Prefix) plan.Change {
	reason := fmt.Sprintf("the spec wants prefix length %d", prefix.Bits())
	if !old.Owned {
		reason += "; the address that is there is not nodeagent's"
	}
	return change(addressKey(prefix, link), plan.ActionUpdate, plan.Disconnect, reason,
		old.Prefix.String(), prefix.String(), replaceAddress{link: link, old: old.Prefix, new: prefix})
}

func hasPrefix(addresses []Address, p netip.Prefix) bool {
	for _, a := range addresses {
		if a.Prefix == p {
			return true
		}
	}
	return false
}

// sameIPv6 finds the address with another prefix length. IPv4 keeps both side
// by side, so that there the new one is added before the old one goes.
func sameIPv6(addresses []Address, p netip.Prefix) (Address, bool) {
	for _, a := range addresses {
		if p.Addr().Is6() && a.Prefix.Addr() == p.Addr() {
			return a, true
		}
	}
	return Address{}, false
}

// losesIPv4 tells whether no IPv4 address is left on the link once the unwanted
// ones are deleted.
func losesIPv4(h, w Link, unwanted map[netip.Prefix]bool) bool {
	for _, a := range w.Addresses {
		if a.Prefix.Addr().Is4() {
			return false
		}
	}
	loses := false
	for _, a := range h.Addresses {
		if a.Prefix.Addr().Is6() {
			continue
		}
		if !unwanted[a.Prefix] {
			return false
		}
		loses = true
	}
	return loses
}

func hasIPv4Route(routes []Route, device string) bool {
	over := map[string]bool{device: true}
	for i := range routes {
		if r := &routes[i]; r.Destination.Addr().Is4() && r.over(over) {
			return true
		}
	}
	return false
}

// lostSources are the IPv4 addresses that no link has any more in the end. The
// kernel removes every route that prefers one as its source.
func lostSources(have, want State, links linkDiff) map[netip.Addr]bool {
	lost := map[netip.Addr]bool{}
	stays := map[netip.Addr]bool{}
	wanted := byName(want.Links)
	for _, w := range want.Links {
		for _, a := range w.Addresses {
			stays[a.Prefix.Addr()] = true
		}
	}
	for _, h := range have.Links {
		for _, a := range h.Addresses {
			if links.doomed[h.Name] || a.Owned && !hasPrefix(wanted[h.Name].Addresses, a.Prefix) {
				lost[a.Prefix.Addr()] = true
			} else {
				stays[a.Prefix.Addr()] = true
			}
		}
	}
	for address := range stays {
		delete(lost, address)
	}
	return lost
}
