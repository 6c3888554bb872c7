package netcfg

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// observeRoutes returns the routes of the main table that nodeagent made and
// those whose destination the wanted state names, sorted.
func (sys *System) observeRoutes(kernel kernelLinks, want State, every bool) ([]Route, error) {
	destinations := make(map[netip.Prefix]bool, len(want.Routes))
	for _, w := range want.Routes {
		destinations[w.Destination] = true
	}
	var routes []Route
	var failed []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found, err := dump(func() ([]Route, error) { return sys.listRoutes(kernel, family, every, destinations) })
		routes = append(routes, found...)
		failed = append(failed, err)
	}
	sortRoutes(routes)
	return routes, errors.Join(failed...)
}

func (sys *System) listRoutes(kernel kernelLinks, family int, every bool, destinations map[netip.Prefix]bool) ([]Route, error) {
	var routes []Route
	err := sys.nl.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE, func(k netlink.Route) bool {
		destination := prefixOf(k, family)
		if k.Protocol == RouteProtocol || every || destinations[destination] {
			// Routes of another type of service are beside those of the spec and
			// never in their way.
			if k.Tos == 0 {
				routes = append(routes, kernel.route(k, destination))
			}
		}
		return true
	})
	return routes, err
}

func prefixOf(k netlink.Route, family int) netip.Prefix {
	if k.Dst == nil {
		if family == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	bits, _ := k.Dst.Mask.Size()
	return netip.PrefixFrom(addrFrom(k.Dst.IP), bits)
}

// route translates the kernel's route.
func (k kernelLinks) route(r netlink.Route, destination netip.Prefix) Route {
	route := Route{
		Destination: destination, Via: addrFrom(r.Gw), Device: k.name(r.LinkIndex),
		Metric: r.Priority, Source: addrFrom(r.Src), Protocol: int(r.Protocol),
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		route.Via = addrFrom(via.Addr)
	}
	switch {
	case len(r.MultiPath) > 0:
		route.Other = fmt.Sprintf("over %d gateways", len(r.MultiPath))
	case r.Type != unix.RTN_UNICAST:
		route.Other = typeWord(r.Type)
	case r.Encap != nil || r.MPLSDst != nil:
		route.Other = "encapsulated"
	}
	return route
}

func typeWord(routeType int) string {
	switch routeType {
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	}
	return fmt.Sprintf("of type %d", routeType)
}
