package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (o putRoute) apply(ctx context.Context, sys *System) error {
	route, err := sys.kernelRoute(o.route)
	if err != nil {
		return fmt.Errorf("add route %q: %w", o.route, err)
	}
	if err := sys.waitForSource(ctx, o.route.Source); err != nil {
		return fmt.Errorf("add route %q: %w", o.route, err)
	}
	put := sys.nl.RouteAdd
	if o.replace {
		put = sys.nl.RouteReplace
	}
	err = edit(ctx, func() error { return put(&route) })
	if err == nil || errors.Is(err, unix.EEXIST) {
		// Somebody made one meanwhile; the next Diff tells whether it serves.
		return nil
	}
	return fmt.Errorf("add route %q: %w", o.route, explain(err, routeHints(o.route)...))
}

func (o deleteRoute) apply(ctx context.Context, sys *System) error {
	route, err := sys.kernelRoute(o.route)
	if err != nil {
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
			return nil // and the route with it
		}
		return fmt.Errorf("delete route %q: %w", o.route, err)
	}
	// Nowhere matches every scope. The protocol is part of the match, so that a
	// route of somebody else is never the one that goes.
	route.Scope = netlink.SCOPE_NOWHERE
	err = edit(ctx, func() error { return sys.nl.RouteDel(&route) })
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route %q: %w", o.route, explain(err))
	}
	return nil
}

// kernelRoute translates to the library's form, with our protocol.
func (sys *System) kernelRoute(r Route) (netlink.Route, error) {
	route := netlink.Route{
		Dst:      &net.IPNet{IP: r.Destination.Addr().AsSlice(), Mask: net.CIDRMask(r.Destination.Bits(), r.Destination.Addr().BitLen())},
		Priority: r.Metric,
		Protocol: netlink.RouteProtocol(cmp.Or(r.Protocol, RouteProtocol)),
		Table:    unix.RT_TABLE_MAIN,
		Type:     unix.RTN_UNICAST,
	}
	if r.Device != "" {
		link, err := sys.find(r.Device)
		if err != nil {
			return netlink.Route{}, err
		}
		route.LinkIndex = link.Attrs().Index
	}
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	switch {
	case !r.Via.IsValid():
		// Only a route of link scope can lead to the gateways of others.
		route.Scope = netlink.SCOPE_LINK
	case r.Via.Is6() && r.Destination.Addr().Is4():
		route.Via = &netlink.Via{AddrFamily: netlink.FAMILY_V6, Addr: r.Via.AsSlice()}
	default:
		route.Gw = r.Via.AsSlice()
	}
	return route, nil
}

func routeHints(r Route) []hint {
	return []hint{
		{unix.ENETUNREACH, fmt.Sprintf("gateway %s is on no network of this host; give a link an address of its network, or add a route to it first", r.Via)},
		{unix.EHOSTUNREACH, fmt.Sprintf("gateway %s is not reached directly; it must be on a network of this host", r.Via)},
		{unix.ENETDOWN, fmt.Sprintf("link %q is down", r.Device)},
		{unix.ENODEV, "a route without a gateway needs a device"},
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
