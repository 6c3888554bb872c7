package netcfg

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// observeRoutes returns the routes of all tables that nodeagent made and, where
// the wanted state names a route that is not among them, what others have to
// its destination in its table; sorted.
//
// Our routes are found by their protocol, by which the kernel filters. Only the
// tables in which one is missing are read on top of that.
func (sys *System) observeRoutes(kernel kernelLinks, want State, scope routeScope) ([]Route, error) {
	routes := make([]Route, 0, len(want.Routes))
	var failed []error
	list := func(f routeFilter) {
		found, err := dump(func() ([]Route, error) { return sys.listRoutes(kernel, f, nil) })
		routes = append(routes, found...)
		failed = append(failed, err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		own := routeFilter{family: family, protocol: RouteProtocol, keep: keepEvery}
		from := len(routes)
		found, err := dump(func() ([]Route, error) { return sys.listRoutes(kernel, own, routes[:from:cap(routes)]) })
		routes = found
		failed = append(failed, err)
	}
	sortRoutes(routes)
	missing := missingRoutes(routes, want.Routes)
	if scope == everyRoute {
		keep := func(r *Route) bool { return r.Protocol != RouteProtocol && (ofPeople(r) || missing.names(r)) }
		list(routeFilter{family: unix.AF_INET, keep: keep})
		list(routeFilter{family: unix.AF_INET6, keep: keep})
	} else {
		for _, t := range missing.tables() {
			list(routeFilter{family: t.family, table: t.table, keep: func(r *Route) bool { return r.Protocol != RouteProtocol && missing.names(r) }})
		}
	}
	err := errors.Join(failed...)
	if nexthops := slices.ContainsFunc(routes, func(r Route) bool { return r.Object != 0 }); nexthops {
		err = errors.Join(err, sys.fillObjects(kernel, routes))
	}
	sortRoutes(routes)
	return routes, err
}

// routeScope says which routes of others are observed.
type routeScope int

const (
	routesInTheWay routeScope = iota // those to the destination of a missing one
	everyRoute                       // those of people and DHCP as well
)

// ofPeople tells whether people or their DHCP client made the route. Routing
// daemons and the kernel keep their own.
func ofPeople(r *Route) bool {
	return slices.Contains([]int{unix.RTPROT_BOOT, unix.RTPROT_STATIC, unix.RTPROT_DHCP}, r.Protocol)
}

// routeTarget is a destination in a table.
type routeTarget struct {
	table       int
	destination netip.Prefix
}

// routeTargets are the destinations of wanted routes that none of ours serves.
type routeTargets map[routeTarget]bool

func (t routeTargets) names(r *Route) bool {
	return len(t) > 0 && t[routeTarget{r.Table, r.Destination}]
}

// missingRoutes walks over both lists, which are sorted: wanted routes in whose
// slot is none of ours.
func missingRoutes(ours, wanted []Route) routeTargets {
	missing := routeTargets{}
	at := 0
	for i := range wanted {
		w := &wanted[i]
		// As a rule all are there, one after another.
		if at < len(ours) && sameSlot(&ours[at], w) {
			at++
			continue
		}
		for at < len(ours) && compareSlots(&ours[at], w) < 0 {
			at++
		}
		if at == len(ours) || compareSlots(&ours[at], w) != 0 {
			missing[routeTarget{w.Table, w.Destination}] = true
		}
	}
	return missing
}

type familyTable struct {
	family uint8
	table  int
}

// tables returns the tables that have to be read, in order.
func (t routeTargets) tables() []familyTable {
	set := map[familyTable]bool{}
	for target := range t {
		family := uint8(unix.AF_INET)
		if target.destination.Addr().Is6() {
			family = unix.AF_INET6
		}
		set[familyTable{family, cmp.Or(target.table, hosts.MainTable)}] = true
	}
	list := make([]familyTable, 0, len(set))
	for f := range set {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b familyTable) int {
		return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(a.table, b.table))
	})
	return list
}

// routeFilter says which routes are listed. The kernel applies the table and the
// protocol (Linux 4.20 and newer); keep sees a route whose destination, table,
// metric and protocol are filled in, and nothing else.
type routeFilter struct {
	family   uint8
	table    int // 0 for all of them
	protocol int // 0 for all of them
	keep     func(*Route) bool
}

func keepEvery(*Route) bool { return true }

// listRoutes appends the routes that pass the filter.
func (sys *System) listRoutes(kernel kernelLinks, f routeFilter, routes []Route) ([]Route, error) {
	table := f.table
	if table > 255 {
		table = unix.RT_TABLE_UNSPEC
	}
	request := newMessage(unix.RTM_GETROUTE, unix.NLM_F_DUMP,
		f.family, 0, 0, 0, uint8(table), uint8(f.protocol), 0, 0, 0, 0, 0, 0)
	if f.table > 255 {
		request.number(unix.RTA_TABLE, f.table)
	}
	p := routeParser{kernel: kernel}
	err := sys.wire.dump(request, func(payload []byte) error {
		// The route is parsed in its place in the list, and stays there if it is
		// one that is asked for.
		routes = append(routes, Route{})
		r := &routes[len(routes)-1]
		ok, err := p.parse(payload, f, r)
		if !ok {
			routes = routes[:len(routes)-1]
		}
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return routes, nil // there is no such table yet
	}
	return routes, err
}

// routeParser reads messages of RTM_NEWROUTE (rtnetlink(7)).
type routeParser struct {
	kernel    kernelLinks
	lastIndex int
	lastName  string
}

// name is the link's name; neighbours in a table mostly lead over the same one.
func (p *routeParser) name(index int) string {
	if index != p.lastIndex {
		p.lastIndex, p.lastName = index, p.kernel.name(index)
	}
	return p.lastName
}

// rtmsg is the fixed part of a message: family, destination length, source
// length, type of service, table, protocol, scope, type, and 32 bits of flags.
const sizeofRtmsg = unix.SizeofRtMsg

// parse fills in the route and tells whether it passes the filter. Left out are
// routes beside those of a spec and never in their way: of a type of service or
// a source of their own, and what the kernel learned (RTM_F_CLONED); and the
// kernel's own table of local addresses.
func (p *routeParser) parse(b []byte, f routeFilter, r *Route) (bool, error) {
	if len(b) < sizeofRtmsg {
		return false, fmt.Errorf("parse route: message of %d bytes", len(b))
	}
	family, length, sourceLength, service, protocol, scope, kind := b[0], b[1], b[2], b[3], b[5], b[6], b[7]
	flags := binary.NativeEndian.Uint32(b[8:])
	if service != 0 || sourceLength != 0 || flags&unix.RTM_F_CLONED != 0 ||
		f.protocol != 0 && int(protocol) != f.protocol || f.family != family {
		return false, nil
	}
	*r = Route{Table: int(b[4]), Protocol: int(protocol)}
	address := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		address = netip.IPv6Unspecified()
	}
	attrs := b[sizeofRtmsg:]
	for kind, value := range rtAttributes(attrs) {
		switch kind {
		case unix.RTA_DST:
			address = addrOf(value)
		case unix.RTA_TABLE:
			r.Table = u32Of(value)
		case unix.RTA_PRIORITY:
			r.Metric = u32Of(value)
		}
	}
	r.Destination = netip.PrefixFrom(address, int(length))
	if r.Table == unix.RT_TABLE_LOCAL || f.table != 0 && r.Table != f.table {
		return false, nil
	}
	if r.Table == hosts.MainTable {
		r.Table = 0
	}
	if !f.keep(r) {
		return false, nil
	}
	p.values(attrs, flags, r)
	r.Type, r.Other = routeType(kind, r.Other)
	*r = r.normal()
	if family == unix.AF_INET && scope != r.scope() {
		r.Scope = cmp.Or(scopeWord(int(scope)), scopeGlobal)
	}
	return true, nil
}

// rtaNexthopID is RTA_NH_ID of rtnetlink.h (Linux 5.3).
const rtaNexthopID = 30

// values fills in what the attributes say beside the slot.
func (p *routeParser) values(attrs []byte, flags uint32, r *Route) {
	for kind, value := range rtAttributes(attrs) {
		switch kind {
		case unix.RTA_OIF:
			r.Device = p.name(u32Of(value))
		case unix.RTA_GATEWAY:
			r.Via = addrOf(value)
		case unix.RTA_VIA:
			r.Via = viaOf(value)
		case unix.RTA_PREFSRC:
			r.Source = addrOf(value)
		case unix.RTA_METRICS:
			metrics(value, r)
		case unix.RTA_MULTIPATH:
			p.nexthops(value, r)
		case rtaNexthopID:
			r.Object = u32Of(value)
		case unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE, unix.RTA_NEWDST:
			r.Other = "encapsulated"
		case unix.RTA_FLOW:
			r.Beyond = "a realm"
		case unix.RTA_PREF:
			if len(value) > 0 && value[0] != 0 {
				r.Beyond = "a router preference"
			}
		case unix.RTA_EXPIRES:
			r.Beyond = "a lifetime"
		}
	}
	r.OnLink = flags&unix.RTNH_F_ONLINK != 0 && r.Via.IsValid()
}

// metrics reads RTA_METRICS: of these, a Route knows the MTU.
func metrics(b []byte, r *Route) {
	for kind, value := range rtAttributes(b) {
		if kind == unix.RTAX_MTU {
			r.MTU = u32Of(value)
		} else {
			r.Beyond = "metrics other than mtu"
		}
	}
}

// viaOf reads a struct rtvia: an address family and an address of it.
func viaOf(value []byte) netip.Addr {
	if len(value) < 2 {
		return netip.Addr{}
	}
	return addrOf(value[2:])
}

// nexthops reads RTA_MULTIPATH, a list of struct rtnexthop with attributes each.
// A way that the kernel has given up although its link is up counts as gone:
// the link lost its addresses, and getting others does not bring the way back.
func (p *routeParser) nexthops(b []byte, r *Route) {
	for len(b) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtNexthop || length > len(b) {
			return
		}
		index := int(binary.NativeEndian.Uint32(b[4:]))
		n := Nexthop{Weight: int(b[3]) + 1, Device: p.name(index)}
		for kind, value := range rtAttributes(b[unix.SizeofRtNexthop:length]) {
			switch kind {
			case unix.RTA_GATEWAY:
				n.Via = addrOf(value)
			case unix.RTA_VIA:
				n.Via = viaOf(value)
			case unix.RTA_ENCAP:
				r.Other = "encapsulated"
			case unix.RTA_FLOW:
				r.Beyond = "a realm"
			}
		}
		n.OnLink = b[2]&unix.RTNH_F_ONLINK != 0 && n.Via.IsValid()
		if dead := b[2]&unix.RTNH_F_DEAD != 0; !dead || !p.kernel.up(index) {
			r.Nexthops = append(r.Nexthops, n)
		}
		b = b[min(align(length), len(b)):]
	}
}

// up tells whether the link is set up.
func (k kernelLinks) up(index int) bool {
	l, ok := k.byIndex[index]
	return ok && l.Attrs().Flags&1 != 0 // net.FlagUp
}

// routeType is the kernel's type as a spec says it; what no spec can say is
// added to other.
func routeType(kind uint8, other string) (hosts.RouteType, string) {
	switch kind {
	case unix.RTN_UNICAST:
		return "", other
	case unix.RTN_BLACKHOLE:
		return hosts.RouteBlackhole, other
	case unix.RTN_UNREACHABLE:
		return hosts.RouteUnreachable, other
	case unix.RTN_PROHIBIT:
		return hosts.RouteProhibit, other
	case unix.RTN_THROW:
		return "", "of type throw"
	}
	return "", fmt.Sprintf("of type %d", kind)
}
