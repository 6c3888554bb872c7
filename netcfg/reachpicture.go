package netcfg

import (
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// Surroundings are all that decides where the packets of the host go, whoever
// made it, as far as it concerns certain ways: more than a [State], which holds
// what is managed. The zero value is a host of which nothing is known but what
// the spec makes of it.
type Surroundings struct {
	links     []pathLink
	addresses []pathAddress
	routes    []pathRoute
	rules     []pathRule
	// sysctls are the values that matter now, wanted those that are to be set,
	// by canonical name.
	sysctls, wanted map[string]string
	// declared tells that nothing was observed: see [Declared].
	declared bool
}

// pathLink is one link of the host.
type pathLink struct {
	name, master, kind string // kind is the kernel's word
	down               bool
	own                bool // nodeagent made it
}

// pathAddress is one address of the host.
type pathAddress struct {
	link   string
	prefix netip.Prefix
	// own tells that nodeagent added it.
	own bool
}

// routeKind is what a route does with a packet.
type routeKind int

const (
	routeUnicast routeKind = iota
	routeLocal
	routeRefuse // blackhole, unreachable, prohibit
	routeThrow  // on to the next rule
	routeOther
)

// pathRoute is one route of any table.
type pathRoute struct {
	table  int
	to     netip.Prefix
	metric int
	kind   routeKind
	word   string   // the kind in words
	hops   []string // links
	onLink bool     // without a gateway
	// own: nodeagent made it, or for a local route the kernel for an address;
	// wanted: the spec names it; kernel: it is there because of an address.
	own, wanted, kernel bool
	// advertised: the kernel made this default route of what a router said.
	advertised bool
	// maybe tells that it may not be there, or not be taken.
	maybe bool
}

// ruleAction is what a policy rule does.
type ruleAction int

const (
	ruleLookup ruleAction = iota
	ruleRefuse
	ruleOther
)

// pathRule is one policy rule.
type pathRule struct {
	priority          int
	six               bool
	from, to          netip.Prefix
	inbound, outbound string
	marked, ports     bool
	protocol          string
	table             int
	suppress          *int
	action            ruleAction
	own               bool
	wanted            int // the priority where the spec names it
	unknown           bool
}

// picture is the host's network as packets see it: as it is, or as it would be.
// It may hold more ways out than there are in truth, never fewer.
type picture struct {
	links     map[string]pathLink
	addresses []pathAddress
	routes    []pathRoute
	rules     []pathRule
	firewall  *Firewall
	wireguard *WireGuard
	// reversePath is rp_filter by link, and of "all", as far as it is known.
	reversePath map[string]string
}

// pictureNow is the host as it is.
func pictureNow(have State, now Surroundings) picture {
	p := picture{
		links: map[string]pathLink{}, addresses: now.addresses,
		routes: slices.Clone(now.routes), rules: slices.Clone(now.rules),
		firewall: have.Firewall, wireguard: have.WireGuard, reversePath: now.reversePath(),
	}
	for _, l := range now.links {
		p.links[l.name] = l
	}
	sortPaths(p.routes, p.rules)
	return p
}

// pictureAfter is the host once it is as wanted.
func pictureAfter(want State, now Surroundings) picture {
	p := picture{links: linksAfter(want, now), firewall: want.Firewall, wireguard: want.WireGuard, reversePath: now.reversePath()}
	p.addresses = p.addressesAfter(want, now)
	p.routes = p.routesAfter(want, now)
	p.rules = rulesAfter(want, now)
	sortPaths(p.routes, p.rules)
	return p
}

func linksAfter(want State, now Surroundings) map[string]pathLink {
	wanted := byName(want.Links)
	links := map[string]pathLink{}
	for _, l := range now.links {
		tunnel := want.WireGuard != nil && want.WireGuard.Interface == l.name
		w, named := wanted[l.name]
		switch {
		case named:
			links[l.name] = linkAfter(l, w)
		case tunnel || !l.own:
			l.down = l.down && !tunnel
			links[l.name] = l
		}
	}
	for _, w := range want.Links {
		if _, there := links[w.Name]; !there && w.Owned {
			links[w.Name] = linkAfter(pathLink{name: w.Name, own: true}, w)
		}
	}
	if w := want.WireGuard; w != nil {
		if _, there := links[w.Interface]; !there {
			links[w.Interface] = pathLink{name: w.Interface, kind: "wireguard"}
		}
	}
	return links
}

// linkAfter is a wanted link. Somebody else's in its place stays as it is.
func linkAfter(l pathLink, w Link) pathLink {
	if w.Owned && !l.own && !w.Adopt {
		return l
	}
	if w.Owned {
		l.kind = string(w.Kind)
	}
	if w.Master != "" || w.Exact {
		l.master = w.Master
	}
	l.down = !w.Up
	return l
}

func (p picture) addressesAfter(want State, now Surroundings) []pathAddress {
	var list []pathAddress
	for _, a := range now.addresses {
		if _, there := p.links[a.link]; there && !a.own {
			list = append(list, a)
		}
	}
	add := func(link string, prefix netip.Prefix) {
		if _, there := p.links[link]; there && prefix.IsValid() {
			list = append(list, pathAddress{link: link, prefix: prefix, own: true})
		}
	}
	for _, l := range want.Links {
		for _, a := range l.Addresses {
			add(l.Name, a.Prefix)
		}
	}
	if w := want.WireGuard; w != nil {
		add(w.Interface, w.Address)
	}
	return list
}

// routesAfter are the wanted routes, those of others that stay, and those that
// the kernel makes for the addresses.
func (p picture) routesAfter(want State, now Surroundings) []pathRoute {
	var list []pathRoute
	for _, w := range want.Routes {
		list = append(list, p.wantedPath(w))
	}
	for i, w := range list {
		// Somebody else's route in its place stays, unless the spec adopts it.
		list[i].maybe = w.maybe || slices.ContainsFunc(now.routes, func(r pathRoute) bool { return !r.own && r.samePlace(w) })
	}
	for _, r := range now.routes {
		taken := slices.ContainsFunc(list, func(w pathRoute) bool {
			return w.wanted && w.samePlace(r)
		})
		switch {
		case r.kernel && !p.connected(r.to):
			continue // its address goes, and it goes with it
		case taken || r.own:
			// It goes, unless what is wanted in its place cannot be had.
			if !taken {
				continue
			}
			r.maybe = true
		case len(r.hops) > 0 && slices.ContainsFunc(r.hops, func(hop string) bool { return touched(want, hop) }):
			r.maybe = true // the kernel may remove it with an address of its link
		}
		list = append(list, r)
	}
	was := pictureNow(State{}, now).links
	for _, a := range p.addresses {
		// Of others the networks are known, unless the link was down.
		if a.own || was[a.link].down {
			l := p.links[a.link]
			// A port of a VRF has its routes in the VRF's table, which may be any.
			list = append(list, pathRoute{
				table: hosts.MainTable, to: a.prefix.Masked(), hops: []string{a.link}, onLink: true,
				maybe: p.links[l.master].kind == "vrf",
			})
		}
	}
	return list
}

// samePlace tells whether the kernel has room for one of the two alone.
func (r pathRoute) samePlace(o pathRoute) bool {
	return r.table == o.table && r.to == o.to && r.metric == o.metric
}

// connected tells whether an address of the host lies in just that network.
func (p picture) connected(network netip.Prefix) bool {
	return slices.ContainsFunc(p.addresses, func(a pathAddress) bool { return a.prefix.Masked() == network })
}

// touched tells whether the wanted state names the link.
func touched(want State, name string) bool {
	_, named := want.link(name)
	return named || want.WireGuard != nil && want.WireGuard.Interface == name
}
