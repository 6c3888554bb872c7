package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// saved is what the kernel removes when a link goes down, as it listed it before:
// IPv6 addresses, and routes of whoever made them.
type saved struct {
	addresses, routes [][]byte
}

// save lists what goes when the link and those upon it go down: with routes of
// all tables, whether they lead over these links or prefer the source.
func (sys *System) save(kernel kernelLinks, index int, routes bool, source netip.Addr) (saved, error) {
	links := kernel.above(index)
	var s saved
	req := sys.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(netlink.FAMILY_V6))
	var err error
	s.addresses, err = sys.listRaw(req, unix.RTM_NEWADDR, func(m []byte) bool {
		a, err := parseAddress(m)
		return err == nil && links[a.index] && a.protocol > lastKernelAddress && a.prefix.Addr().Is6() ||
			err == nil && links[a.index] && a.protocol == 0 && !a.temporary && !a.prefix.Addr().IsLinkLocalUnicast()
	})
	if err != nil || !routes {
		return s, err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		head := nl.NewRtMsg()
		head.Family = uint8(family)
		req := sys.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		req.AddData(head)
		found, err := sys.listRaw(req, unix.RTM_NEWROUTE, func(m []byte) bool { return routeOver(m, links, source) })
		if err != nil {
			return s, err
		}
		s.routes = append(s.routes, found...)
	}
	return s, nil
}

// lastKernelAddress is the last of the address protocols that the kernel uses
// itself (IFAPROT_KERNEL_LL, if_addr.h): it adds those addresses again.
const lastKernelAddress = 3

func (sys *System) listRaw(req *nl.NetlinkRequest, answer uint16, matters func([]byte) bool) ([][]byte, error) {
	return dump(func() ([][]byte, error) {
		messages, err := req.Execute(unix.NETLINK_ROUTE, answer)
		return slices.DeleteFunc(messages, func(m []byte) bool { return !matters(m) }), err
	})
}

// above returns the link and all that lie upon it, which go down with it.
func (k kernelLinks) above(index int) map[int]bool {
	links := map[int]bool{index: true}
	for grown := true; grown; {
		grown = false
		for _, l := range k.list {
			a := l.Attrs()
			if l.Type() != "veth" && a.NetNsID == -1 && links[a.ParentIndex] && !links[a.Index] {
				links[a.Index], grown = true, true
			}
		}
	}
	return links
}

// routeOver tells whether the route is one of those to be put back: not the
// kernel's own, nor of a router advertisement, which it makes anew.
func routeOver(m []byte, links map[int]bool, source netip.Addr) bool {
	if len(m) < unix.SizeofRtMsg {
		return false
	}
	head := nl.DeserializeRtMsg(m)
	if head.Protocol == unix.RTPROT_KERNEL || head.Protocol == unix.RTPROT_RA || head.Flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	attributes, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	if err != nil {
		return false
	}
	over := false
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			over = over || len(a.Value) >= 4 && links[int(binary.NativeEndian.Uint32(a.Value))]
		case unix.RTA_PREFSRC:
			preferred, _ := netip.AddrFromSlice(a.Value)
			over = over || source.IsValid() && preferred == source
		case unix.RTA_MULTIPATH:
			eachNexthop(a.Value, func(hop []byte) {
				over = over || links[int(binary.NativeEndian.Uint32(hop[4:]))]
			})
		}
	}
	return over
}

// eachNexthop calls do with each struct rtnexthop: length, flags, hops, index.
func eachNexthop(value []byte, do func(hop []byte)) {
	for len(value) >= unix.SizeofRtNexthop {
		length := int(binary.NativeEndian.Uint16(value))
		if length < unix.SizeofRtNexthop || length > len(value) {
			return
		}
		do(value[:length])
		value = value[min((length+3)&^3, len(value)):]
	}
}

// putBack adds again what is gone: addresses first, then routes, those that
// others lead over before these.
func (sys *System) putBack(ctx context.Context, s saved) error {
	var failed []error
	for _, m := range s.addresses {
		if err := sys.writeAgain(unix.RTM_NEWADDR, m); err != nil {
			a, _ := parseAddress(m)
			failed = append(failed, fmt.Errorf("put back address %s: %w", a.prefix, explain(err)))
		}
	}
	left := s.routes
	for len(left) > 0 {
		var again [][]byte
		var errs []error
		for _, m := range left {
			if err := sys.putBackRoute(ctx, m); err != nil {
				again, errs = append(again, m), append(errs, err)
			}
		}
		if len(again) == len(left) {
			return errors.Join(append(failed, errs...)...)
		}
		left = again
	}
	return errors.Join(failed...)
}

func (sys *System) putBackRoute(ctx context.Context, m []byte) error {
	m = slices.Clone(m)
	const flags = 8 // rtm_flags: of the nexthop, and of the listing
	binary.NativeEndian.PutUint32(m[flags:], binary.NativeEndian.Uint32(m[flags:])&unix.RTNH_F_ONLINK)
	attributes, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	if err != nil {
		return err
	}
	var destination netip.Addr
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_DST:
			destination, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_PREFSRC:
			source, _ := netip.AddrFromSlice(a.Value)
			if err := sys.waitForSource(ctx, source); err != nil {
				return err
			}
		case unix.RTA_MULTIPATH:
			eachNexthop(a.Value, func(hop []byte) { hop[2] &= unix.RTNH_F_ONLINK })
		}
	}
	if err := sys.writeAgain(unix.RTM_NEWROUTE, m); err != nil {
		where := "default"
		if destination.IsValid() {
			where = netip.PrefixFrom(destination, int(m[1])).String()
		}
		return fmt.Errorf("put back route %s: %w", where, explain(err))
	}
	return nil
}

func (sys *System) writeAgain(messageType int, m []byte) error {
	req := sys.request(messageType, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddRawData(m)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
