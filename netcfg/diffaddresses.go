package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// addressDiff is the changes of addresses by when they happen, and what the
// kernel does to routes because of them.
type addressDiff struct {
	add         []plan.Change // additions, and IPv6 addresses that change their prefix length
	deleteFirst []plan.Change // deletions after which wanted routes must be made again
	delete      []plan.Change // all other deletions, after the routes

	moving      map[netip.Addr]bool // IPv6 addresses that wanted routes prefer
	flushed     map[string]bool     // links that lose their IPv4 routes to deleteFirst
	cleared     map[netip.Addr]bool // IPv6 addresses that deleteFirst takes from the routes that prefer them
	lostSources map[netip.Addr]bool // IPv4 addresses that the host will not have any more
}

func diffAddresses(have, want State, links linkDiff) addressDiff {
	d := addressDiff{flushed: map[string]bool{}, cleared: map[netip.Addr]bool{}, moving: movingSources(want)}
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
	w.Addresses = d.rescope(h, w, unwanted)
	for _, a := range w.Addresses {
		if i := slices.IndexFunc(h.Addresses, func(have Address) bool { return have.Prefix == a.Prefix }); i >= 0 {
			d.options(w.Name, h.Addresses[i], a)
			continue
		}
		if old, ok := sameIPv6(h.Addresses, a.Prefix); ok {
			d.add = append(d.add, replacement(w.Name, old, a))
			delete(unwanted, old.Prefix)
			continue
		}
		d.add = append(d.add, change(addressKey(a.Prefix, w.Name), plan.ActionCreate, plan.Quiet,
			reasonMissing, "", a.String(), addAddress{link: w.Name, address: a}))
	}
	flush := losesIPv4(h, w, unwanted) && hasIPv4Route(routes, w.Name)
	for _, a := range h.Addresses { // in order
		if !unwanted[a.Prefix] {
			continue
		}
		c := change(addressKey(a.Prefix, w.Name), plan.ActionDelete, plan.Disconnect,
			reasonUnwanted, a.String(), "", deleteAddress{link: w.Name, prefix: a.Prefix})
		if flush && a.Prefix.Addr().Is4() {
			c.Reason += "; with it go the IPv4 routes over the link, so it goes before they are made"
			d.deleteFirst = append(d.deleteFirst, c)
			d.flushed[w.Name] = true
		} else if d.moving[a.Prefix.Addr()] {
			c.Reason += "; another link has it now, and routes that prefer it are made again"
			d.deleteFirst = append(d.deleteFirst, c)
			d.cleared[a.Prefix.Addr()] = true
		} else {
			d.delete = append(d.delete, c)
		}
	}
}

// options plans what differs between an address that is there and the wanted
// one of the same prefix. The kernel changes all but the scope in place.
func (d *addressDiff) options(link string, h, w Address) {
	reasons := addressReasons(h, w)
	if len(reasons) == 0 {
		return
	}
	reason := "the spec wants it " + strings.Join(reasons, ", ")
	if !h.Owned {
		reason += "; the address that is there is not nodeagent's"
	}
	d.add = append(d.add, change(addressKey(w.Prefix, link), plan.ActionUpdate, plan.Quiet, reason, h.String(), w.String(),
		addAddress{link: link, address: w, replace: true}))
}

// addressReasons says what differs, as far as the spec says anything: somebody
// else's address serves as it is where the spec names no more than its prefix.
func addressReasons(h, w Address) []string {
	if !h.Owned && w.plain() {
		return nil
	}
	var reasons []string
	if h.NoDAD != w.NoDAD && w.Prefix.Addr().Is6() {
		word := "with duplicate address detection"
		if w.NoDAD {
			word = "without duplicate address detection"
		}
		reasons = append(reasons, word)
	}
	if !lasts(h.Valid, w.Valid) {
		reasons = append(reasons, "valid "+lifetimeWord(w.Valid))
	}
	limit := cmp.Or(w.Preferred, w.Valid)
	switch {
	case w.Deprecated && !h.Deprecated:
		reasons = append(reasons, "deprecated")
	case w.Deprecated, h.Deprecated && w.Preferred != 0: // its preferred lifetime is over, as it should be by now
	case w.Prefix.Addr().Is4() && h.Valid == 0 && !h.Deprecated: // the kernel prefers it for ever then
	case h.Deprecated || !lasts(h.Preferred, limit):
		reasons = append(reasons, "preferred "+lifetimeWord(limit))
	}
	return reasons
}

func (a Address) plain() bool {
	return a.Scope == "" && !a.NoDAD && a.Valid == 0 && a.Preferred == 0 && !a.Deprecated
}

// rescope plans the IPv4 networks of a link that are to have another scope: the
// kernel sets it only when an address is added, and all addresses of a network
// on one link have the same. It returns the other wanted addresses, with the
// scope of their network where they are yet to be added.
func (d *addressDiff) rescope(h, w Link, unwanted map[netip.Prefix]bool) []Address {
	var left []Address
	done := map[netip.Prefix]bool{}
	for _, a := range w.Addresses {
		network := a.Prefix.Masked()
		if a.Prefix.Addr().Is6() {
			left = append(left, a)
			continue
		}
		if done[network] {
			continue
		}
		done[network] = true
		left = append(left, d.rescopeNetwork(h, w, network, unwanted)...)
	}
	return left
}

func (d *addressDiff) rescopeNetwork(h, w Link, network netip.Prefix, unwanted map[netip.Prefix]bool) (left []Address) {
	in := func(a Address) bool { return a.Prefix.Masked() == network }
	scope := ""
	for _, a := range slices.Concat(w.Addresses, h.Addresses) {
		if in(a) && (a.Scope != "" && scope == "") && hasPrefix(w.Addresses, a.Prefix) {
			scope = a.Scope
		}
	}
	var old, added []Address
	for _, a := range h.Addresses {
		if in(a) && cmp.Or(a.Scope, scopeGlobal) != cmp.Or(scope, scopeGlobal) && (unwanted[a.Prefix] || hasPrefix(w.Addresses, a.Prefix)) {
			old = append(old, a)
		}
	}
	for _, a := range w.Addresses {
		if !in(a) {
			continue
		}
		if hasPrefix(old, a.Prefix) || len(old) > 0 && !hasPrefix(h.Addresses, a.Prefix) {
			a.Scope = scope
			added = append(added, a)
			continue
		}
		if !hasPrefix(h.Addresses, a.Prefix) {
			a.Scope = scope
		}
		left = append(left, a)
	}
	if len(added) == 0 {
		return left
	}
	o := replaceAddresses{link: w.Name, new: added}
	for _, a := range old {
		delete(unwanted, a.Prefix)
		o.old = append(o.old, a.Prefix)
	}
	d.add = append(d.add, change(addressKey(added[0].Prefix, w.Name), plan.ActionUpdate, plan.Disconnect,
		fmt.Sprintf("the spec wants scope %s in %s, and the kernel sets that only when an address is added: they are deleted for a moment", cmp.Or(scope, scopeGlobal), network),
		lines(old), lines(added), o))
	return left
}

func lines(addresses []Address) string {
	var text []string
	for _, a := range addresses {
		text = append(text, a.String())
	}
	return strings.Join(text, "\n")
}

const scopeGlobal = "global"

// lasts tells whether what is left of a lifetime can be left of the wanted one:
// it counts down, so that less is the same, and for ever is only for ever.
func lasts(left, wanted time.Duration) bool {
	return (left == 0) == (wanted == 0) && left <= wholeSeconds(wanted)
}

// wholeSeconds rounds up: the kernel counts lifetimes in seconds.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

func lifetimeWord(d time.Duration) string {
	if d == 0 {
		return "for ever"
	}
	return "for " + d.String()
}

func replacement(link string, old, new Address) plan.Change {
	reason := fmt.Sprintf("the spec wants prefix length %d", new.Prefix.Bits())
	if !old.Owned {
		reason += "; the address that is there is not nodeagent's"
	}
	return change(addressKey(new.Prefix, link), plan.ActionUpdate, plan.Disconnect, reason,
		old.String(), new.String(), replaceAddresses{link: link, old: []netip.Prefix{old.Prefix}, new: []Address{new}})
}

// movingSources are the IPv6 addresses of wanted links that wanted routes prefer.
// When one of them goes from another link, the kernel (since 6.3) takes it from
// all routes that prefer it, though it is still there.
func movingSources(want State) map[netip.Addr]bool {
	moving := map[netip.Addr]bool{}
	for i := range want.Routes {
		if source := want.Routes[i].Source; source.Is6() {
			moving[source] = true
		}
	}
	return moving
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

// String returns the address as plans print it: "192.0.2.10/24",
// "2001:db8::1/64 nodad, valid 1h0m0s, deprecated".
func (a Address) String() string {
	words := []string{}
	if a.Scope != "" && a.Scope != scopeGlobal {
		words = append(words, "scope "+a.Scope)
	}
	if a.NoDAD {
		words = append(words, "nodad")
	}
	if a.Valid != 0 {
		words = append(words, "valid "+a.Valid.String())
	}
	switch {
	case a.Deprecated:
		words = append(words, "deprecated")
	case a.Preferred != 0:
		words = append(words, "preferred "+a.Preferred.String())
	}
	if len(words) == 0 {
		return a.Prefix.String()
	}
	return a.Prefix.String() + " " + strings.Join(words, ", ")
}
