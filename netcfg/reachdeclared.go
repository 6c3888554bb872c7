package netcfg

import (
	"math"
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// Declared are the surroundings of a host that nobody looked at, for [Reach]: it
// is as wanted, and there may be more. own are addresses that it has, wherever.
//
// Others may have given it links, networks and routes that the spec does not
// name. So a destination that nothing of the spec leads to counts as reached by
// them, and a route of the spec that discards counts only where the spec itself
// says what else there is: where it has addresses and a way out of the family,
// or where the route is for the destination alone.
func Declared(want State, own []netip.Addr, ways []Way) Surroundings {
	// The link without a name is whichever the spec does not name.
	s := Surroundings{declared: true, links: []pathLink{{name: ""}, {name: "lo"}}}
	known := func(name string) bool {
		return slices.ContainsFunc(s.links, func(l pathLink) bool { return l.name == name })
	}
	for _, l := range want.Links {
		if !l.Owned {
			s.links = append(s.links, pathLink{name: l.Name})
		}
	}
	for _, r := range want.Routes {
		for _, name := range r.devices() {
			if !known(name) && !want.makes(name) {
				s.links = append(s.links, pathLink{name: name})
			}
		}
	}
	for _, a := range own {
		if a.IsValid() && !want.has(a) {
			s.addresses = append(s.addresses, pathAddress{prefix: netip.PrefixFrom(a, a.BitLen())})
		}
	}
	for _, table := range want.tables() {
		s.routes = append(s.routes, unknownRoutes(want, table, ends(ways))...)
	}
	return s
}

// unknownRoutes are those that others may have made, of a table.
func unknownRoutes(want State, table int, ends []netip.Addr) []pathRoute {
	somewhere := func(to netip.Prefix) pathRoute {
		return pathRoute{table: table, to: to, metric: math.MaxInt, hops: []string{""}, maybe: true}
	}
	var routes []pathRoute
	complete := map[bool]bool{false: want.complete(false), true: want.complete(true)}
	for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if table != hosts.MainTable || !complete[all.Is6()] {
			routes = append(routes, somewhere(netip.PrefixFrom(all, 0)))
		}
	}
	for _, end := range ends {
		if !want.onLink(end) && (table != hosts.MainTable || !complete[end.Is6()]) {
			routes = append(routes, somewhere(netip.PrefixFrom(end, end.BitLen())))
		}
	}
	return routes
}

// complete tells whether the state means to say all of a family: it has an
// address of it beside the mesh's, and a default route that leads out.
func (s State) complete(six bool) bool {
	addressed := slices.ContainsFunc(s.Links, func(l Link) bool {
		return slices.ContainsFunc(l.Addresses, func(a Address) bool { return a.Prefix.Addr().Is6() == six })
	})
	return addressed && slices.ContainsFunc(s.Routes, func(r Route) bool {
		return r.Type == "" && (r.Table == 0 || r.Table == hosts.MainTable) && r.Destination.Bits() == 0 && r.Destination.Addr().Is6() == six &&
			(s.WireGuard == nil || !slices.Contains(r.devices(), s.WireGuard.Interface))
	})
}

// onLink tells whether the address lies in a network of a wanted link.
func (s State) onLink(a netip.Addr) bool {
	within := func(p netip.Prefix) bool { return p.IsValid() && p.Contains(a) }
	return s.WireGuard != nil && within(s.WireGuard.Address) || slices.ContainsFunc(s.Links, func(l Link) bool {
		return slices.ContainsFunc(l.Addresses, func(own Address) bool { return within(own.Prefix) })
	})
}

// has tells whether a wanted link has the address.
func (s State) has(a netip.Addr) bool {
	return s.WireGuard != nil && s.WireGuard.Address.Addr() == a || slices.ContainsFunc(s.Links, func(l Link) bool {
		return slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Addr() == a })
	})
}

// makes tells whether the state makes a link of that name.
func (s State) makes(name string) bool {
	l, named := s.link(name)
	return named && l.Owned || s.WireGuard != nil && s.WireGuard.Interface == name
}

// tables are those that packets may be looked up in, the main one first.
func (s State) tables() []int {
	tables := []int{hosts.MainTable}
	for _, r := range s.Rules {
		if r.Table != 0 && !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
	}
	return tables
}

// devices are the links that the route names.
func (r Route) devices() []string {
	var names []string
	for _, n := range append([]Nexthop{{Device: r.Device}}, r.Nexthops...) {
		if n.Device != "" && !slices.Contains(names, n.Device) {
			names = append(names, n.Device)
		}
	}
	return names
}
