package netcfg

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

func (o putRoute) apply(ctx context.Context, sys *System) error { return sys.applyOne(ctx, o) }

func (o putRoute) request(ctx context.Context, b *batch) (*message, error) {
	if err := b.waitForSource(ctx, o.route.Source); err != nil {
		return nil, fmt.Errorf("add route %q: %w", o.route, err)
	}
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if o.replace {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	m, err := b.route(unix.RTM_NEWROUTE, flags, &o.route)
	if err != nil {
		return nil, fmt.Errorf("add route %q: %w", o.route, err)
	}
	return m, nil
}

func (o putRoute) outcome(err error) error {
	if err == nil || errors.Is(err, unix.EEXIST) {
		// Somebody made one meanwhile; the next Diff tells whether it serves.
		return nil
	}
	return fmt.Errorf("add route %q: %w", o.route, explain(err, routeHints(o.route)...))
}

func (o deleteRoute) apply(ctx context.Context, sys *System) error { return sys.applyOne(ctx, o) }

func (o deleteRoute) request(_ context.Context, b *batch) (*message, error) {
	m, err := b.route(unix.RTM_DELROUTE, 0, &o.route)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil, nil // and the route with it
	}
	if err != nil {
		return nil, fmt.Errorf("delete route %q: %w", o.route, err)
	}
	return m, nil
}

func (o deleteRoute) outcome(err error) error {
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("delete route %q: %w", o.route, explain(err))
}

// route makes the request to make or delete a route (rtnetlink(7)).
func (b *batch) route(kind, flags uint16, r *Route) (*message, error) {
	family, routeType := uint8(unix.AF_INET), kernelType(r.Type)
	if r.Destination.Addr().Is6() {
		family = unix.AF_INET6
	}
	table := cmp.Or(r.Table, hosts.MainTable)
	short := table
	if table > 255 {
		short = unix.RT_TABLE_UNSPEC
	}
	scope := r.scope()
	switch {
	case kind == unix.RTM_DELROUTE:
		// Nowhere matches every scope. The protocol is part of the match, so that
		// a route of somebody else is never the one that goes.
		scope = unix.RT_SCOPE_NOWHERE
	case r.Scope != "":
		scope = scopeOf(Address{Scope: r.Scope})
	}
	var routeFlags uint32
	if r.OnLink && r.Object == 0 { // an object has the flag itself
		routeFlags = unix.RTNH_F_ONLINK
	}
	fixed := append(make([]byte, 0, sizeofRtmsg), family, uint8(r.Destination.Bits()), 0, 0, uint8(short),
		uint8(cmp.Or(r.Protocol, RouteProtocol)), scope, routeType)
	m := newMessage(kind, flags, binary.NativeEndian.AppendUint32(fixed, routeFlags)...)
	m.address(unix.RTA_DST, r.Destination.Addr())
	m.number(unix.RTA_TABLE, table)
	if r.Metric != 0 {
		m.number(unix.RTA_PRIORITY, r.Metric)
	}
	if kind == unix.RTM_DELROUTE && family == unix.AF_INET {
		return m, nil // known by its slot
	}
	if kind == unix.RTM_NEWROUTE {
		if r.Source.IsValid() {
			m.address(unix.RTA_PREFSRC, r.Source)
		}
		if r.MTU != 0 {
			m.nested(unix.RTA_METRICS, func() { m.number(unix.RTAX_MTU, r.MTU) })
		}
	}
	if r.Object != 0 {
		m.number(rtaNexthopID, r.Object)
		return m, nil
	}
	return m, b.ways(m, r)
}

// scope is that which nodeagent gives routes of this sort: only a route of link
// scope can lead to the gateways of others.
func (r *Route) scope() uint8 {
	if r.Type == "" && !r.gateway() && r.Object == 0 {
		return unix.RT_SCOPE_LINK
	}
	return unix.RT_SCOPE_UNIVERSE
}

// ways appends where the route leads.
func (b *batch) ways(m *message, r *Route) error {
	if len(r.Nexthops) == 0 {
		if r.Device != "" {
			index, err := b.index(r.Device)
			if err != nil {
				return err
			}
			m.number(unix.RTA_OIF, index)
		}
		m.gateway(r.Via, r.Destination.Addr())
		return nil
	}
	var failed error
	m.nested(unix.RTA_MULTIPATH, func() {
		for _, n := range r.Nexthops {
			index := 0
			if n.Device != "" {
				var err error
				if index, err = b.index(n.Device); err != nil {
					failed = err
					return
				}
			}
			at := len(m.b)
			var flags uint8
			if n.OnLink {
				flags = unix.RTNH_F_ONLINK
			}
			m.b = append(m.b, 0, 0, flags, uint8(max(n.Weight, 1)-1))
			m.b = binary.NativeEndian.AppendUint32(m.b, uint32(index))
			m.gateway(n.Via, r.Destination.Addr())
			binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
		}
	})
	return failed
}

// gateway appends the gateway; one of another family than the destination has
// an attribute of its own (RFC 5549).
func (m *message) gateway(via, destination netip.Addr) {
	switch {
	case !via.IsValid():
	case via.Is6() && destination.Is4():
		m.attribute(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), via.AsSlice()...))
	default:
		m.address(unix.RTA_GATEWAY, via)
	}
}

func (m *message) address(kind uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		m.attribute(kind, b[:])
		return
	}
	b := a.As16()
	m.attribute(kind, b[:])
}

func kernelType(t hosts.RouteType) uint8 {
	switch t {
	case hosts.RouteBlackhole:
		return unix.RTN_BLACKHOLE
	case hosts.RouteUnreachable:
		return unix.RTN_UNREACHABLE
	case hosts.RouteProhibit:
		return unix.RTN_PROHIBIT
	}
	return unix.RTN_UNICAST
}

func routeHints(r Route) []hint {
	gateway := r.Via.String()
	if len(r.Nexthops) > 0 {
		var gateways []string
		for _, n := range r.Nexthops {
			gateways = append(gateways, n.Via.String())
		}
		gateway = "one of " + strings.Join(gateways, ", ")
	}
	return []hint{
		{unix.ENETUNREACH, fmt.Sprintf("gateway %s is on no network of this host; give a link an address of its network, add a route to it first, or set onlink = true with its device", gateway)},
		{unix.EHOSTUNREACH, fmt.Sprintf("gateway %s is not reached directly; it must be on a network of this host, or have onlink = true with its device", gateway)},
		{unix.ENETDOWN, fmt.Sprintf("link %q is down", r.Device)},
		{unix.ENODEV, "the link is gone, or the route has neither gateway nor device; plan again"},
		{unix.ENOENT, "another program's route came in between; plan again"},
		{unix.EINVAL, "gateway and source do not fit: the gateway must not be an address of this host, a link-local gateway needs a device, the source must be an address of this host"},
	}
}

// sourceTimeout is longer than duplicate address detection takes once the link
// has its carrier, which itself comes a second after it was brought up (RFC 4862:
// up to 1 s of delay, then 1 s for each probe, one by default).
const sourceTimeout = 10 * time.Second

// waitForSource waits until an IPv6 source address may be used: the kernel
// refuses routes that prefer one whose duplicate address detection is under way.
func (sys *System) waitForSource(ctx context.Context, source netip.Addr) error {
	if !source.Is6() {
		return nil
	}
	deadline := time.NewTimer(sourceTimeout)
	defer deadline.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		ready, err := sys.usable(source)
		if ready || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("source %s is not usable: its duplicate address detection does not end; has its link a carrier?", source)
		case <-again.C:
		}
	}
}

// usable tells whether some link has the address with detection behind it. An
// address that is not there at all is left to the kernel to refuse.
func (sys *System) usable(source netip.Addr) (bool, error) {
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", explain(err))
	}
	ready := true
	for _, a := range addresses {
		switch {
		case a.prefix.Addr() != source:
		case a.duplicate:
			return false, fmt.Errorf("source %s is not usable: another host has the same address", source)
		case !a.tentative:
			return true, nil
		default:
			ready = false
		}
	}
	return ready, nil
}
