package netcfg

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// The attributes of fib_rules.h that package unix lacks.
const (
	fraSourcePorts = 23 // FRA_SPORT_RANGE
	fraPorts       = 24 // FRA_DPORT_RANGE
	fraFlow        = 11 // FRA_FLOW
	// Since Linux 6.14 a rule with one port reads back with a mask of all bits.
	fraSourceMask = 28 // FRA_SPORT_MASK
	fraPortMask   = 29 // FRA_DPORT_MASK
)

const (
	ruleHeadSize  = 12 // struct fib_rule_hdr
	ruleInvert    = 2  // FIB_RULE_INVERT
	noSuppression = 0xffffffff
	everyMark     = 0xffffffff
)

// observeRules returns the rules that nodeagent made and those at the places
// that the wanted state names, sorted.
func (sys *System) observeRules(want State) ([]Rule, error) {
	wanted := func(r Rule) bool {
		for _, w := range want.Rules {
			if r.samePlace(w) {
				return true
			}
		}
		return false
	}
	return sys.listRules(func(r Rule) bool { return r.Protocol == RouteProtocol || wanted(r) })
}

func (sys *System) listRules(keep func(Rule) bool) ([]Rule, error) {
	var rules []Rule
	var failed []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := dump(func() ([]Rule, error) {
			var found []Rule
			request := newMessage(unix.RTM_GETRULE, unix.NLM_F_DUMP, append([]byte{family}, make([]byte, ruleHeadSize-1)...)...)
			err := sys.wire.dump(request, func(payload []byte) error {
				r, err := parsePolicyRule(payload)
				if err == nil && payload[0] == family && keep(r) {
					found = append(found, r)
				}
				return err
			})
			return found, err
		})
		rules = append(rules, found...)
		failed = append(failed, err)
	}
	sortRules(rules)
	return rules, errors.Join(failed...)
}

// parsePolicyRule reads a struct fib_rule_hdr (family, lengths of destination and
// source, type of service, table, two reserved bytes, action, 32 bits of flags)
// and its attributes.
func parsePolicyRule(b []byte) (Rule, error) {
	if len(b) < ruleHeadSize {
		return Rule{}, fmt.Errorf("parse rule: message of %d bytes", len(b))
	}
	r := Rule{IPv6: b[0] == unix.AF_INET6, Table: int(b[4])}
	to, from, service, flags := int(b[1]), int(b[2]), b[3], binary.NativeEndian.Uint32(b[8:])
	maskSet := false
	for kind, value := range rtAttributes(b[ruleHeadSize:]) {
		switch kind {
		case unix.FRA_DST:
			r.To = netip.PrefixFrom(addrOf(value), to)
		case unix.FRA_SRC:
			r.From = netip.PrefixFrom(addrOf(value), from)
		case unix.FRA_IIFNAME:
			r.Inbound = unix.ByteSliceToString(value)
		case unix.FRA_OIFNAME:
			r.Outbound = unix.ByteSliceToString(value)
		case unix.FRA_PRIORITY:
			r.Priority = u32Of(value)
		case unix.FRA_TABLE:
			r.Table = u32Of(value)
		case unix.FRA_FWMARK:
			r.Mark = uint32(u32Of(value))
		case unix.FRA_FWMASK:
			r.Mask, maskSet = uint32(u32Of(value)), true
		case unix.FRA_SUPPRESS_PREFIXLEN:
			r.ShorterThan = suppressed(value)
		case unix.FRA_PROTOCOL:
			r.Protocol = byteOf(value)
		case unix.FRA_IP_PROTO:
			r.IPProtocol = ipProtocolWord(byteOf(value))
		case fraSourcePorts:
			r.SourcePort = r.port(value)
		case fraPorts:
			r.Port = r.port(value)
		default:
			r.unknown(kind, value)
		}
	}
	if r.Mark != 0 && !maskSet {
		r.Mask = everyMark
	}
	r.action(b[7], service, flags)
	return r, nil
}

func suppressed(value []byte) int {
	if n := uint32(u32Of(value)); n != noSuppression {
		return int(n) + 1
	}
	return 0
}

func byteOf(value []byte) int {
	if len(value) == 0 {
		return 0
	}
	return int(value[0])
}

// port reads a struct fib_rule_port_range; a range of several is no spec's.
func (r *Rule) port(value []byte) uint16 {
	if len(value) < 4 {
		return 0
	}
	first, last := binary.NativeEndian.Uint16(value), binary.NativeEndian.Uint16(value[2:])
	if first != last {
		r.Other = fmt.Sprintf("ports %d to %d", first, last)
	}
	return first
}

// unknown notes what else narrows a rule. Attributes that say nothing of the
// kind are passed over.
func (r *Rule) unknown(kind uint16, value []byte) {
	switch kind {
	case unix.FRA_SUPPRESS_IFGROUP:
		if uint32(u32Of(value)) != noSuppression {
			r.Other = "with suppressed link groups"
		}
	case unix.FRA_UID_RANGE:
		r.Other = "for a range of users"
	case unix.FRA_L3MDEV:
		if byteOf(value) != 0 {
			r.Other = "for the tables of VRF links"
		}
	case unix.FRA_GOTO, unix.FRA_TUN_ID:
		r.Other = "of a kind that no spec can say"
	case fraFlow:
		if u32Of(value) != 0 {
			r.Other = "with a realm"
		}
	case fraSourceMask, fraPortMask:
		if len(value) >= 2 && binary.NativeEndian.Uint16(value) != 0xffff {
			r.Other = "for some bits of a port"
		}
	case unix.FRA_PAD:
	default:
		if kind > fraPorts {
			r.Other = "of a kind that no spec can say" // newer than these lines
		}
	}
}

func (r *Rule) action(action, service uint8, flags uint32) {
	switch action {
	case unix.FR_ACT_TO_TBL:
	case unix.FR_ACT_BLACKHOLE:
		r.Action, r.Table = "blackhole", 0
	case unix.FR_ACT_UNREACHABLE:
		r.Action, r.Table = "unreachable", 0
	case unix.FR_ACT_PROHIBIT:
		r.Action, r.Table = "prohibit", 0
	default:
		r.Other = "of a kind that no spec can say"
	}
	if service != 0 {
		r.Other = "for a type of service"
	}
	if flags&ruleInvert != 0 {
		r.Other = "inverted"
	}
}

var ipProtocols = map[string]uint8{
	"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP,
}

// ipProtocolWord is the name of an IP protocol. ICMP has two numbers, one for
// each family, and one word.
func ipProtocolWord(number int) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "icmp"
	}
	return strconv.Itoa(number)
}

func (r Rule) ipProtocolNumber() uint8 {
	if r.IPProtocol == "icmp" && r.IPv6 {
		return unix.IPPROTO_ICMPV6
	}
	if n, ok := ipProtocols[r.IPProtocol]; ok {
		return n
	}
	n, _ := strconv.ParseUint(r.IPProtocol, 10, 8) // one that was observed
	return uint8(n)
}

func (o putRule) apply(ctx context.Context, sys *System) error { return sys.applyOne(ctx, o) }

func (o putRule) request(context.Context, *batch) (*message, error) {
	return o.rule.request(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL), nil
}

func (o putRule) outcome(err error) error {
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("add rule %q: %w", o.rule, explain(err,
		hint{unix.EINVAL, "the kernel does not accept these values together; see ip-rule(8)"}))
}

func (o deleteRule) apply(ctx context.Context, sys *System) error { return sys.applyOne(ctx, o) }

func (o deleteRule) request(context.Context, *batch) (*message, error) {
	return o.rule.request(unix.RTM_DELRULE, 0), nil
}

func (o deleteRule) outcome(err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("delete rule %q: %w", o.rule, explain(err))
}

// request makes the message that adds or deletes the rule. The kernel tells
// rules apart by all of it, the protocol included, so that the same rule of
// somebody else is never the one that goes.
func (r Rule) request(kind, flags uint16) *message {
	family := uint8(unix.AF_INET)
	if r.IPv6 {
		family = unix.AF_INET6
	}
	action := uint8(unix.FR_ACT_TO_TBL)
	switch r.Action {
	case "blackhole":
		action = unix.FR_ACT_BLACKHOLE
	case "unreachable":
		action = unix.FR_ACT_UNREACHABLE
	case "prohibit":
		action = unix.FR_ACT_PROHIBIT
	}
	m := newMessage(kind, flags, family, uint8(max(r.To.Bits(), 0)), uint8(max(r.From.Bits(), 0)), 0, 0, 0, 0, action, 0, 0, 0, 0)
	m.number(unix.FRA_PRIORITY, r.Priority)
	m.attribute(unix.FRA_PROTOCOL, []byte{uint8(cmp.Or(r.Protocol, RouteProtocol))})
	if r.Table != 0 {
		m.number(unix.FRA_TABLE, r.Table)
	}
	if r.To.IsValid() {
		m.address(unix.FRA_DST, r.To.Addr())
	}
	if r.From.IsValid() {
		m.address(unix.FRA_SRC, r.From.Addr())
	}
	if r.Inbound != "" {
		m.text(unix.FRA_IIFNAME, r.Inbound)
	}
	if r.Outbound != "" {
		m.text(unix.FRA_OIFNAME, r.Outbound)
	}
	if r.Mask != 0 {
		m.number(unix.FRA_FWMARK, int(r.Mark))
		m.number(unix.FRA_FWMASK, int(r.Mask))
	}
	if r.IPProtocol != "" {
		m.attribute(unix.FRA_IP_PROTO, []byte{r.ipProtocolNumber()})
	}
	m.ports(fraSourcePorts, r.SourcePort)
	m.ports(fraPorts, r.Port)
	if r.ShorterThan != 0 {
		m.number(unix.FRA_SUPPRESS_PREFIXLEN, r.ShorterThan-1)
	}
	return m
}

func (m *message) ports(kind uint16, port uint16) {
	if port != 0 {
		m.attribute(kind, binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, port), port))
	}
}
