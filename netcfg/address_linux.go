package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO of if_addr.h, the attribute that says who added an
// address. The netlink library does not know it, which is why addresses are
// read and written here.
const ifaProto = 11

// kernelAddress is one address as the kernel lists it.
type kernelAddress struct {
	index     int // of the link
	prefix    netip.Prefix
	peer      bool // point to point: prefix is the local address alone
	protocol  int  // 0 where nobody set it
	global    bool
	permanent bool // false for those of DHCP and router advertisements
	secondary bool // IPv4: goes with the first address of its network
	tentative bool // IPv6: duplicate address detection is under way
	duplicate bool // IPv6: another host has it
}

func (sys *System) listAddresses() ([]kernelAddress, error) {
	req := sys.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(netlink.FAMILY_ALL))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	addresses := make([]kernelAddress, 0, len(messages))
	for _, m := range messages {
		a, parseErr := parseAddress(m)
		if parseErr != nil {
			return nil, parseErr
		}
		addresses = append(addresses, a)
	}
	return addresses, err
}

// parseAddress reads an ifaddrmsg and its attributes (rtnetlink(7)). IPv4 has
// the address in IFA_LOCAL and, unless it is point to point, again in
// IFA_ADDRESS; IPv6 has IFA_LOCAL only for point to point.
func parseAddress(message []byte) (kernelAddress, error) {
	if len(message) < unix.SizeofIfAddrmsg {
		return kernelAddress{}, fmt.Errorf("parse address: message of %d bytes", len(message))
	}
	head := nl.DeserializeIfAddrmsg(message)
	attributes, err := nl.ParseRouteAttr(message[unix.SizeofIfAddrmsg:])
	if err != nil {
		return kernelAddress{}, fmt.Errorf("parse address: %w", err)
	}
	flags := uint32(head.Flags)
	var local, address netip.Addr
	a := kernelAddress{index: int(head.Index), global: head.Scope == unix.RT_SCOPE_UNIVERSE}
	for _, attribute := range attributes {
		switch attribute.Attr.Type {
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(attribute.Value)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attribute.Value)
		case unix.IFA_FLAGS:
			if len(attribute.Value) >= 4 {
				flags = binary.NativeEndian.Uint32(attribute.Value)
			}
		case ifaProto:
			if len(attribute.Value) >= 1 {
				a.protocol = int(attribute.Value[0])
			}
		}
	}
	if !local.IsValid() {
		local = address
	}
	a.peer = address.IsValid() && local != address
	a.prefix = netip.PrefixFrom(local, int(head.Prefixlen))
	a.permanent = flags&unix.IFA_F_PERMANENT != 0
	a.secondary = local.Is4() && flags&unix.IFA_F_SECONDARY != 0
	a.tentative = flags&unix.IFA_F_TENTATIVE != 0
	a.duplicate = flags&unix.IFA_F_DADFAILED != 0
	return a, nil
}

// writeAddress sends RTM_NEWADDR or RTM_DELADDR for an address of a link.
func (sys *System) writeAddress(messageType, flags, index int, p netip.Prefix) error {
	family := netlink.FAMILY_V6
	if p.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	head := nl.NewIfAddrmsg(family)
	head.Prefixlen = uint8(p.Bits())
	head.Index = uint32(index)
	if p.Addr().Is4() && p.Addr().IsLoopback() {
		head.Scope = unix.RT_SCOPE_HOST
	}
	req := sys.request(messageType, flags|unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if messageType == unix.RTM_NEWADDR {
		req.AddData(nl.NewRtAttr(ifaProto, []byte{AddressProtocol}))
		if p.Addr().Is4() && p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p).AsSlice()))
		}
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// broadcast is the last address of an IPv4 network. Networks of 31 and 32 bits
// have none (RFC 3021).
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|^uint32(0)>>p.Bits())
	return netip.AddrFrom4(b)
}
