package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FloatingProtocol marks floating addresses (IFA_PROTO): they come and go with a
// claim in etcd, so Diff neither adds nor deletes them.
const FloatingProtocol = AddressProtocol + 1

// FloatingHere tells whether the floating address is on the link, put there by
// Hold, and whether the link is there with a carrier. An address that is there
// and carries another mark is an error: it is somebody else's.
func (sys *System) FloatingHere(link string, address netip.Prefix) (here, up bool, err error) {
	found, err := sys.nl.LinkByName(link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("find link %q: %w", link, err)
	}
	// IFF_LOWER_UP: the carrier, which a cable that is pulled takes away.
	up = found.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) == unix.IFF_UP|unix.IFF_LOWER_UP
	addresses, err := sys.listAddresses()
	if err != nil {
		return false, up, fmt.Errorf("list addresses: %w", err)
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
	seconds := max(1, uint32(valid/time.Second))
	return sys.floating(ctx, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link, address,
		nl.NewRtAttr(ifaProto, []byte{FloatingProtocol}), nl.NewRtAttr(unix.IFA_CACHEINFO, cacheInfo(seconds)))
}

// Drop takes the floating address off the link. One that is not there is no
// error.
func (sys *System) Drop(ctx context.Context, link string, address netip.Prefix) error {
	err := sys.floating(ctx, unix.RTM_DELADDR, 0, link, address)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	return err
}

func (sys *System) floating(ctx context.Context, messageType, flags int, link string, p netip.Prefix, attributes ...*nl.RtAttr) error {
	verb := map[int]string{unix.RTM_NEWADDR: "put", unix.RTM_DELADDR: "drop"}[messageType]
	found, err := sys.nl.LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s floating address %s on link %q: %w", verb, p, link, err)
	}
	head := nl.NewIfAddrmsg(netlink.FAMILY_V4)
	if p.Addr().Is6() {
		head.Family = netlink.FAMILY_V6
		// The claim says that nobody else has it, and waiting would cost a second.
		head.IfAddrmsg.Flags = unix.IFA_F_NODAD
	}
	head.Prefixlen = uint8(p.Bits())
	head.Index = uint32(found.Attrs().Index)
	req := sys.request(messageType, flags|unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	for _, a := range attributes {
		req.AddData(a)
	}
	err = edit(ctx, func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s floating address %s on link %q: %w", verb, p, link, err)
	}
	return nil
}

// cacheInfo is struct ifa_cacheinfo of if_addr.h with both lifetimes the same.
func cacheInfo(seconds uint32) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b[0:], seconds) // preferred
	binary.NativeEndian.PutUint32(b[4:], seconds) // valid
	return b
}
