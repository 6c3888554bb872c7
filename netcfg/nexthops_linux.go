package netcfg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// nexthopObject is one of the kernel's nexthop objects, which nodeagent reads
// and never makes (ip-nexthop(8); Linux 5.3).
type nexthopObject struct {
	id        int
	blackhole bool
	way       Nexthop
	group     []nexthopShare
	other     string
}

type nexthopShare struct{ id, weight int }

// fillObjects gives routes through nexthop objects their ways. The kernel puts
// them into the routes as well unless net.ipv4.nexthop_compat_mode is off.
func (sys *System) fillObjects(kernel kernelLinks, routes []Route) error {
	bare := func(r Route) bool { return r.Object != 0 && r.Device == "" && !r.gateway() && r.Type == "" }
	if !slices.ContainsFunc(routes, bare) {
		return nil
	}
	list, err := dump(func() ([]nexthopObject, error) { return sys.listObjects(kernel) })
	if err != nil {
		return fmt.Errorf("list nexthop objects: %w", explain(err))
	}
	objects := make(map[int]nexthopObject, len(list))
	for _, o := range list {
		objects[o.id] = o
	}
	for i, r := range routes {
		if bare(r) {
			routes[i] = r.through(objects)
		}
	}
	return nil
}

// through returns the route with the ways of its object.
func (r Route) through(objects map[int]nexthopObject) Route {
	o, known := objects[r.Object]
	switch {
	case !known:
		r.Other = fmt.Sprintf("through nexthop object %d", r.Object)
	case o.other != "":
		r.Other = o.other
	case o.blackhole:
		r.Type = hosts.RouteBlackhole
	case len(o.group) > 0:
		for _, share := range o.group {
			way := objects[share.id].way
			way.Weight = share.weight
			r.Nexthops = append(r.Nexthops, way)
		}
	default:
		r.Via, r.Device, r.OnLink = o.way.Via, o.way.Device, o.way.OnLink
	}
	return r.normal()
}

func (sys *System) listObjects(kernel kernelLinks) ([]nexthopObject, error) {
	var objects []nexthopObject
	request := newMessage(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP, unix.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0)
	err := sys.wire.dump(request, func(payload []byte) error {
		o, err := parseObject(kernel, payload)
		objects = append(objects, o)
		return err
	})
	return objects, err
}

// parseObject reads a struct nhmsg (family, scope, protocol, and flags behind a
// byte of padding) and its attributes (linux/nexthop.h).
func parseObject(kernel kernelLinks, b []byte) (nexthopObject, error) {
	const size = 8
	var o nexthopObject
	if len(b) < size {
		return o, fmt.Errorf("parse nexthop object: message of %d bytes", len(b))
	}
	flags := binary.NativeEndian.Uint32(b[4:])
	var gateway netip.Addr
	for kind, value := range rtAttributes(b[size:]) {
		switch kind {
		case unix.NHA_ID:
			o.id = u32Of(value)
		case unix.NHA_OIF:
			o.way.Device = kernel.name(u32Of(value))
		case unix.NHA_GATEWAY:
			gateway = addrOf(value)
		case unix.NHA_BLACKHOLE:
			o.blackhole = true
		case unix.NHA_GROUP:
			o.group = parseGroup(value)
		case unix.NHA_ENCAP, unix.NHA_ENCAP_TYPE:
			o.other = "encapsulated"
		}
	}
	o.way.Via, o.way.OnLink = gateway, gateway.IsValid() && flags&unix.RTNH_F_ONLINK != 0
	return o, nil
}

// parseGroup reads a list of struct nexthop_grp: id, weight less one, and three
// bytes more.
func parseGroup(b []byte) []nexthopShare {
	const size = 8
	var group []nexthopShare
	for ; len(b) >= size; b = b[size:] {
		group = append(group, nexthopShare{id: u32Of(b), weight: int(b[4]) + 1})
	}
	return group
}
