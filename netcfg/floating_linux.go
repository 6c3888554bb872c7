package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FloatingProtocol marks floating addresses (IFA_PROTO): they come and go with a
// claim in etcd, so Diff neither adds nor deletes them.
const FloatingProtocol = AddressProtocol + 1

// FloatingHere tells whether the floating address is on the link, put there by
// Hold, and whether the link is there with a carrier. An address that is there
// and carries another mark is an error: it is somebody else's.
func (sys *System) FloatingHere(link string, address netip.Prefix) (here, up bool, err error) {
	found, err := sys.find(link)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	// IFF_LOWER_UP: the carrier, which a cable that is pulled takes away.
	up = found.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) == unix.IFF_UP|unix.IFF_LOWER_UP
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return false, up, fmt.Errorf("list addresses: %w", explain(err))
	}
	for _, a := range addresses {
		if a.index != found.Attrs().Index || a.prefix.Addr() != address.Addr() {
			continue
		}
		// A kernel before 5.18 keeps no mark; ours are known by their lifetime.
		if a.protocol != FloatingProtocol && (a.protocol != 0 || a.permanent) {
			return false, up, fmt.Errorf("floating address %s is on link %q already and is not nodeagent's: remove it there, or take it out of network.floating", address, link)
		}
		here = true
	}
	return here, up, nil
}

// Hold puts the floating address on the link, or lets it live longer: the kernel
// removes it by itself once valid (whole seconds, rounded down, at least 1) is
// over and nobody called Hold again.
func (sys *System) Hold(ctx context.Context, link string, address netip.Prefix, valid time.Duration) error {
	found, err := sys.find(link)
	if err != nil {
		return fmt.Errorf("put floating address %s: %w", address, err)
	}
	// The claim says that nobody else has it, and waiting would cost a second.
	a := Address{Prefix: address, Valid: max(time.Second, valid.Truncate(time.Second)), NoDAD: address.Addr().Is6()}
	err = edit(ctx, func() error {
		return sys.writeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, found.Attrs().Index, a, FloatingProtocol, 0)
	})
	if err != nil {
		return fmt.Errorf("put floating address %s on link %q: %w", address, link, explain(err))
	}
	return nil
}

// Drop takes the floating address off the link. One that is not there is no
// error.
func (sys *System) Drop(ctx context.Context, link string, address netip.Prefix) error {
	found, err := sys.find(link)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drop floating address %s: %w", address, err)
	}
	return sys.removeAddress(ctx, link, found.Attrs().Index, address)
}
