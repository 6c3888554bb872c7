package netcfg

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

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
	scope     int  // of rtnetlink(7)
	temporary bool // IPv6: of privacy extensions, made by the kernel
	noDAD     bool
	// deprecated tells that the preferred lifetime is over.
	deprecated bool
	valid      uint32 // seconds that are left; all ones for ever
	preferred  uint32
	kept       uint32 // flags that a change must not lose
	permanent  bool   // false for those of DHCP and router advertisements
	secondary  bool   // IPv4: goes with the first address of its network
	tentative  bool   // IPv6: duplicate address detection is under way
	duplicate  bool   // IPv6: another host has it
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
	a := kernelAddress{
		index: int(head.Index), scope: int(head.Scope), global: head.Scope == unix.RT_SCOPE_UNIVERSE,
		valid: forever, preferred: forever,
	}
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
		case unix.IFA_CACHEINFO: // struct ifa_cacheinfo: preferred comes first
			if len(attribute.Value) >= 8 {
				a.preferred = binary.NativeEndian.Uint32(attribute.Value)
				a.valid = binary.NativeEndian.Uint32(attribute.Value[4:])
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
	a.deprecated = flags&unix.IFA_F_DEPRECATED != 0
	a.noDAD = flags&unix.IFA_F_NODAD != 0
	a.temporary = local.Is6() && flags&unix.IFA_F_TEMPORARY != 0
	a.kept = flags & keptFlags
	a.permanent = flags&unix.IFA_F_PERMANENT != 0
	a.secondary = local.Is4() && flags&unix.IFA_F_SECONDARY != 0
	a.tentative = flags&unix.IFA_F_TENTATIVE != 0
	a.duplicate = flags&unix.IFA_F_DADFAILED != 0
	return a, nil
}

// forever is a lifetime without an end (INFINITY_LIFE_TIME).
const forever = ^uint32(0)

// keptFlags are those that only whoever adds an address sets, and a spec not.
const keptFlags = unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// managed translates to what Diff compares.
func (k kernelAddress) managed(owned bool) Address {
	a := Address{Prefix: k.prefix, Scope: scopeWord(k.scope), NoDAD: k.noDAD, Owned: owned}
	if k.valid != forever {
		a.Valid = time.Duration(max(k.valid, 1)) * time.Second
	}
	switch {
	case k.deprecated: // also of an IPv4 address that is valid for ever, whose lifetimes do not tell
		a.Deprecated = true
	case k.preferred != forever:
		// 0 in the moment between the end of the lifetime and the kernel's noting it.
		a.Preferred = time.Duration(max(k.preferred, 1)) * time.Second
	}
	return a
}

// scopeWord is "" for the scope that most addresses have.
func scopeWord(scope int) string {
	switch scope {
	case unix.RT_SCOPE_UNIVERSE:
		return ""
	case unix.RT_SCOPE_SITE:
		return "site"
	case unix.RT_SCOPE_LINK:
		return "link"
	case unix.RT_SCOPE_HOST:
		return "host"
	}
	return fmt.Sprint(scope)
}

func scopeOf(a Address) uint8 {
	switch {
	case a.Scope == "site":
		return unix.RT_SCOPE_SITE
	case a.Scope == "link":
		return unix.RT_SCOPE_LINK
	case a.Scope == "host", a.Scope == "" && a.Prefix.Addr().Is4() && a.Prefix.Addr().IsLoopback():
		return unix.RT_SCOPE_HOST
	}
	number, _ := strconv.ParseUint(a.Scope, 10, 8) // one without a name, observed
	return uint8(number)
}

// writeAddress sends RTM_NEWADDR or RTM_DELADDR for an address of a link; the
// protocol, of RTM_NEWADDR alone, says whose it is.
func (sys *System) writeAddress(messageType, flags, index int, a Address, protocol int, addressFlags uint32) error {
	p := a.Prefix
	family := netlink.FAMILY_V6
	if p.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	head := nl.NewIfAddrmsg(family)
	head.Prefixlen = uint8(p.Bits())
	head.Index = uint32(index)
	head.Scope = scopeOf(a)
	req := sys.request(messageType, flags|unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if messageType == unix.RTM_NEWADDR {
		if a.NoDAD {
			addressFlags |= unix.IFA_F_NODAD
		}
		if protocol != 0 {
			req.AddData(nl.NewRtAttr(ifaProto, []byte{byte(protocol)}))
		}
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(addressFlags)))
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, lifetimes(a)))
		if p.Addr().Is4() && p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p).AsSlice()))
		}
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// lifetimes is a struct ifa_cacheinfo. No address is preferred for longer than
// it is valid.
func lifetimes(a Address) []byte {
	seconds := func(d time.Duration) uint32 {
		if d == 0 {
			return forever
		}
		return uint32(min(wholeSeconds(d)/time.Second, time.Duration(forever-1)))
	}
	valid, preferred := seconds(a.Valid), seconds(cmp.Or(a.Preferred, a.Valid))
	if a.Deprecated {
		preferred = 0
	}
	info := make([]byte, 16)
	binary.NativeEndian.PutUint32(info, preferred)
	binary.NativeEndian.PutUint32(info[4:], valid)
	return info
}

// broadcast is the last address of an IPv4 network. Networks of 31 and 32 bits
// have none (RFC 3021).
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|^uint32(0)>>p.Bits())
	return netip.AddrFrom4(b)
}
