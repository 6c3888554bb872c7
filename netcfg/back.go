package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// Back returns the wanted state that leads back to have once want was applied
// in part or whole: what nodeagent owns, and of what others made that alone
// which applying want changes. have was observed with [System.Before].
//
// The error names what could not be brought back exactly: then want must not be
// tried on the understanding that it can be undone.
func Back(have, want State) (State, error) {
	var lost []error
	want = want.resolved(have)
	back := State{Routes: backRoutes(have, want, &lost), Rules: backRules(have, want, &lost)}
	links := map[string]Link{}
	wanted := byName(want.Links)
	for _, h := range have.Links {
		if _, touched := wanted[h.Name]; touched || h.Owned || h.Placed || hasOwned(h.Addresses) {
			links[h.Name] = backLink(h, wanted[h.Name], &lost)
		}
	}
	back.Links = mastersFirst(links)
	back.WireGuard = backWireGuard(have.WireGuard)
	back.Firewall = backFirewall(have.Firewall, &lost)
	return back, errors.Join(lost...)
}

// backLink is the link as it was, with the addresses that are nodeagent's. Of a
// link that is not, only what wanting w changes is led back.
func backLink(h, w Link, lost *[]error) Link {
	l := Link{
		Name: h.Name, Kind: hosts.LinkPhysical, MTU: h.MTU, Master: h.Master, Up: h.Up,
		Owned: h.Owned, Marked: h.Owned, Exact: true, Placed: h.Placed, AltNames: h.AltNames,
		Port: h.Port, VLANs: h.VLANs,
	}
	switch {
	case h.Owned:
		l.Kind, l.Peer, l.Parent, l.MAC = h.Kind, h.Peer, h.Parent, h.MAC
		l.Settings = h.settable()
	case w.Adopt:
		backAdopted(&l, h, w, lost)
	case w.MAC != "":
		l.MAC = h.MAC
	}
	for _, a := range h.Addresses {
		if a.Owned {
			l.Addresses = append(l.Addresses, a.exact())
			continue
		}
		for _, n := range w.Addresses {
			switch {
			case n.Prefix.Addr().Is6() && n.Prefix.Addr() == a.Prefix.Addr() && n.Prefix != a.Prefix:
				*lost = append(*lost, fmt.Errorf("address %s of link %q, which is not nodeagent's, would be replaced by %s", a.Prefix, h.Name, n.Prefix))
			case n.Prefix == a.Prefix && len(addressReasons(a, n)) > 0:
				l.Addresses = append(l.Addresses, a.exact())
			}
		}
	}
	return l
}

// backAdopted leads a link that wanting w takes over back to whoever made it. A
// link that has to be made anew for it, or loses addresses, would not be theirs
// as it was.
func backAdopted(l *Link, h, w Link, lost *[]error) {
	l.Alias, l.MAC, l.Settings = h.Alias, h.MAC, h.settable()
	if reason := misfit(h, w); reason != "" {
		*lost = append(*lost, fmt.Errorf("link %q, which %s made, would not stay: %s", h.Name, makerOf(h), reason))
	}
	for _, a := range h.Addresses {
		if a.Owned && !hasPrefix(w.Addresses, a.Prefix) {
			*lost = append(*lost, fmt.Errorf("address %s of link %q, which %s made, would be removed", a.Prefix, h.Name, makerOf(h)))
		}
	}
}

// exact is the address as wanted to be as it was: its scope is then said.
func (a Address) exact() Address {
	if a.Scope == "" && a.Prefix.Addr().Is4() {
		a.Scope = scopeGlobal
	}
	return a
}

// settable are the settings that the kernel takes when the link is made anew: a
// bond refuses those that its mode does not have, whatever their value, and
// delays where it has no miimon.
func (l Link) settable() []Setting {
	var settings []Setting
	for _, a := range kindAttributes[l.Kind] {
		value, known := settingOf(l.Settings, a.name)
		delay := l.Kind == hosts.LinkBond && (a.name == "up_delay" || a.name == "down_delay")
		switch {
		case !known, slices.Contains(a.refused, l.setting("mode")):
		case delay && l.setting("miimon") == "0s":
		case a.name == "arp_interval" && value == "0s", value == "" && a.form != linkIndex && a.form != address:
		default:
			settings = append(settings, Setting{a.name, value})
		}
	}
	return settings
}

// backRoutes are our routes, and those of people and DHCP that applying want
// replaces, that lie over a link which it names, or that go with an address:
// the kernel removes them silently (fib_disable_ip, fib_sync_down_addr). Routing
// daemons and the kernel keep their own.
func backRoutes(have, want State, lost *[]error) []Route {
	touched := touchedLinks(have, want)
	goes := removedByKernel(have, want)
	var adopting []Route // few, where there may be many thousands in all
	for _, w := range want.Routes {
		if w.Adopt {
			adopting = append(adopting, w)
		}
	}
	var routes []Route
	for _, h := range have.Routes {
		replaced := slices.ContainsFunc(adopting, func(w Route) bool { return sameSlot(&h, &w) && !satisfies(&h, &w) })
		going := ofPeople(&h) && goes(&h)
		switch {
		case h.Protocol == RouteProtocol, replaced, going:
		case h.over(touched) && h.Other == "" && ofPeople(&h):
		default:
			continue
		}
		if h.Other != "" || (replaced || going) && h.Beyond != "" {
			*lost = append(*lost, fmt.Errorf("route %q, made by %s, would be replaced or go with its link or address, and cannot be written as it is (it has %s)",
				h, h.maker(), cmp.Or(h.Beyond, "what nodeagent does not know")))
			continue
		}
		h.Beyond, h.Adopt = "", true // from whoever takes its place
		routes = append(routes, h)
	}
	sortRoutes(routes)
	return compactRoutes(routes)
}

// touchedLinks are the links of which applying want may change anything.
func touchedLinks(have, want State) map[string]bool {
	touched := map[string]bool{}
	for _, w := range want.Links {
		touched[w.Name] = w.Name != ""
	}
	for _, h := range have.Links {
		touched[h.Name] = touched[h.Name] || h.Owned || hasOwned(h.Addresses)
	}
	return touched
}

// removedByKernel tells of the routes that the kernel removes, or takes their
// preferred source from, when want is applied: those over a link that goes, goes
// down or loses its last IPv4 address, and those that prefer an address that
// goes.
func removedByKernel(have, want State) func(*Route) bool {
	links := diffLinks(have, want)
	wanted := byName(want.Links)
	both, four := map[string]bool{}, map[string]bool{}
	for _, h := range have.Links {
		w, named := wanted[h.Name]
		both[h.Name] = links.gone[h.Name] || links.doomed[h.Name] || links.cycled[h.Name] || named && h.Up && !w.Up
		unwanted := map[netip.Prefix]bool{}
		for _, a := range h.Addresses {
			unwanted[a.Prefix] = a.Owned && !hasPrefix(w.Addresses, a.Prefix)
		}
		four[h.Name] = losesIPv4(h, w, unwanted)
	}
	sources := lostSources(have, want, links)
	return func(r *Route) bool {
		return r.over(both) || r.Destination.Addr().Is4() && r.over(four) || r.Source.IsValid() && sources[r.Source]
	}
}

// backRules are our rules, and those that the spec adopts from others.
func backRules(have, want State, lost *[]error) []Rule {
	var rules []Rule
	for _, h := range have.Rules {
		adopted := slices.ContainsFunc(want.Rules, func(w Rule) bool { return w.Adopt && h.samePlace(w) })
		switch {
		case h.Protocol == RouteProtocol:
		case !adopted || h.Protocol == unix.RTPROT_KERNEL:
			continue
		case h.Other != "":
			*lost = append(*lost, fmt.Errorf("rule %q, made by %s, would be replaced, and cannot be written as it is", h, maker(h.Protocol)))
			continue
		}
		h.Exact = true
		rules = append(rules, h)
	}
	sortRules(rules)
	return rules
}

// backWireGuard turns an observed device into a wanted one. The private key is
// the host's own and does not change; a preshared key that a change takes off
// the device is kept in a file until then.
func backWireGuard(h *WireGuard) *WireGuard {
	if h == nil || h.Device != WireGuardLink {
		return nil
	}
	w := &WireGuard{Interface: h.Interface, Folder: h.Folder, MTU: h.MTU, Port: h.Port}
	for _, a := range h.Addresses {
		if a.Owned && !w.Address.IsValid() {
			w.Address = a.Prefix
		}
	}
	for _, p := range h.Peers {
		if p.PresharedKey != "" {
			p.PresharedFile = keptPath(h.Folder, p.PublicKey, p.PresharedKey)
		}
		p.Moved = ""
		w.Peers = append(w.Peers, p)
	}
	return w
}

func backFirewall(h *Firewall, lost *[]error) *Firewall {
	if h == nil {
		return nil
	}
	if !h.pure() {
		*lost = append(*lost, fmt.Errorf("what somebody else put into nodeagent's nftables table %q would be removed", FirewallTable))
	}
	back := *h
	back.Idle = nil // of no use to anybody, and nothing that is wanted
	return &back
}

// AfterBoot returns what of a way back still holds after a reboot: others set up
// anew what is theirs, nodeagent only what it owns or manages.
func (s State) AfterBoot() State {
	left := s
	left.Links, left.Routes, left.Rules = nil, nil, nil
	for _, l := range s.Links {
		if !l.Owned && !l.Up {
			continue // Diff brings up what is wanted
		}
		l.Exact = false
		left.Links = append(left.Links, l)
	}
	for _, r := range s.Routes {
		if r.Protocol == RouteProtocol {
			left.Routes = append(left.Routes, r)
		}
	}
	for _, r := range s.Rules {
		if r.Protocol == RouteProtocol {
			left.Rules = append(left.Rules, r)
		}
	}
	return left
}

// Join returns the way back of a second attempt that began before the first was
// confirmed: to where the first began, and besides to what only the second
// touches of what others made. later was taken when the second began.
func (s State) Join(later State) State {
	joined := s
	links := byName(s.Links)
	for _, l := range later.Links {
		if _, known := links[l.Name]; !known && !l.Owned && !hasOwned(l.Addresses) {
			links[l.Name] = l
		}
	}
	joined.Links = mastersFirst(links)
	joined.Routes = slices.Clone(s.Routes)
	for _, r := range later.Routes {
		taken := func() bool {
			return slices.ContainsFunc(s.Routes, func(f Route) bool { return sameSlot(&f, &r) })
		}
		if r.Protocol != RouteProtocol && !taken() {
			joined.Routes = append(joined.Routes, r)
		}
	}
	sortRoutes(joined.Routes)
	joined.Rules = slices.Clone(s.Rules)
	for _, r := range later.Rules {
		if r.Protocol != RouteProtocol && !slices.Contains(s.Rules, r) {
			joined.Rules = append(joined.Rules, r)
		}
	}
	sortRules(joined.Rules)
	return joined
}
