package netcfg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rawRule is a rule as the kernel gives it: its comment and its expressions
// with every attribute. The library's own reading leaves out expressions and
// attributes that it does not know, and so a rule that somebody else put there
// could look like one of ours.
type rawRule struct {
	comment string
	exprs   []rawExpr
}

// rawExpr is one expression: its name, and its attributes by their number.
// Attributes within attributes have two numbers joined by within.
type rawExpr struct {
	name  string
	attrs map[int]string
}

// within numbers an attribute within an attribute.
func within(outer, inner int) int { return outer<<8 | inner }

// String prints an expression in full.
func (e rawExpr) String() string {
	var words []string
	for _, n := range slices.Sorted(maps.Keys(e.attrs)) {
		words = append(words, fmt.Sprintf("%d:%s", n, hex.EncodeToString([]byte(e.attrs[n]))))
	}
	return e.name + "{" + strings.Join(words, " ") + "}"
}

// is tells whether the expression has the name and exactly these attributes.
func (e rawExpr) is(name string, attrs map[int]string) bool {
	return e.name == name && maps.Equal(e.attrs, attrs)
}

func u32(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }

// firewallSet is an anonymous constant set, the only kind that nodeagent makes:
// nobody can change its elements while it lives.
type firewallSet struct {
	interval bool
	elements []nftables.SetElement
}

// parseRule reads a rule back, by the same steps as compileRule makes one. A
// rule that compileRule could not have made has its expressions in Other.
func parseRule(raw rawRule, sets map[string]firewallSet) FirewallRule {
	p := ruleParser{rest: raw.exprs, sets: sets}
	rule := FirewallRule{Name: raw.comment}
	p.parse(&rule)
	if p.bad || len(p.rest) > 0 {
		var words []string
		for _, e := range raw.exprs {
			words = append(words, describeExpr(e, sets))
		}
		return FirewallRule{Name: raw.comment, Other: "a rule that nodeagent does not make: " + strings.Join(words, " ")}
	}
	return rule
}

// describeExpr prints an expression with the content of the set that it looks
// up in, so that two rules that differ print differently.
func describeExpr(e rawExpr, sets map[string]firewallSet) string {
	set, ok := sets[strings.TrimRight(e.attrs[unix.NFTA_LOOKUP_SET], "\x00")]
	if e.name != "lookup" || !ok {
		return e.String()
	}
	var keys []string
	for _, el := range set.elements {
		keys = append(keys, hex.EncodeToString(el.Key))
	}
	return "lookup{" + strings.Join(keys, " ") + "}"
}

type ruleParser struct {
	rest []rawExpr
	sets map[string]firewallSet
	bad  bool
}

func (p *ruleParser) parse(r *FirewallRule) {
	for _, key := range p.lookup(loadMeta(expr.MetaKeyIIFNAME), false, unix.IFNAMSIZ) {
		r.Interfaces = append(r.Interfaces, string(bytes.TrimRight(key.first, "\x00")))
	}
	if family, ok := p.compare(loadMeta(expr.MetaKeyNFPROTO)); ok {
		r.From = p.parseSources(family)
	}
	for _, key := range p.lookup(loadState, false, 4) {
		r.States = append(r.States, p.state(binary.NativeEndian.Uint32(key.first)))
	}
	if number, ok := p.compare(loadMeta(expr.MetaKeyL4PROTO)); ok {
		r.Protocol = p.protocol(number)
	}
	for _, key := range p.lookup(loadPayload(icmpType), false, 1) {
		r.Types = append(r.Types, key.first[0])
	}
	r.SourcePorts = portsOf(p.lookup(loadPayload(sourcePort), true, 2))
	r.Ports = portsOf(p.lookup(loadPayload(destPort), true, 2))
	r.Drop = p.verdict()
	slices.Sort(r.Interfaces)
	slices.Sort(r.States)
	slices.Sort(r.Types)
}

func (p *ruleParser) parseSources(family byte) []netip.Prefix {
	load, everything := sourceAddress4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	switch family {
	case unix.NFPROTO_IPV4:
	case unix.NFPROTO_IPV6:
		load, everything = sourceAddress6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	default:
		p.bad = true
	}
	var ranges []addrRange
	for _, key := range p.lookup(loadPayload(load), true, int(load.Len)) {
		first, _ := netip.AddrFromSlice(key.first)
		last, _ := netip.AddrFromSlice(key.last)
		ranges = append(ranges, addrRange{first, last})
	}
	if len(ranges) == 0 {
		return []netip.Prefix{everything}
	}
	return prefixes(ranges)
}

func loadMeta(key expr.MetaKey) rawExpr {
	return rawExpr{"meta", map[int]string{unix.NFTA_META_KEY: u32(uint32(key)), unix.NFTA_META_DREG: u32(1)}}
}

var loadState = rawExpr{"ct", map[int]string{unix.NFTA_CT_KEY: u32(unix.NFT_CT_STATE), unix.NFTA_CT_DREG: u32(1)}}

func loadPayload(l expr.Payload) rawExpr {
	return rawExpr{"payload", map[int]string{
		unix.NFTA_PAYLOAD_DREG: u32(1), unix.NFTA_PAYLOAD_BASE: u32(uint32(l.Base)),
		unix.NFTA_PAYLOAD_OFFSET: u32(l.Offset), unix.NFTA_PAYLOAD_LEN: u32(l.Len),
	}}
}

// takes tells whether the next expression is the given one and another follows,
// and if so returns that one and goes past both.
func (p *ruleParser) takes(load rawExpr) (rawExpr, bool) {
	if p.bad || len(p.rest) < 2 || !p.rest[0].is(load.name, load.attrs) {
		return rawExpr{}, false
	}
	next := p.rest[1]
	p.rest = p.rest[2:]
	return next, true
}

// compare reads the comparison of one byte.
func (p *ruleParser) compare(load rawExpr) (byte, bool) {
	e, ok := p.takes(load)
	if !ok {
		return 0, false
	}
	value := e.attrs[within(unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)]
	if len(value) != 1 || !e.is("cmp", map[int]string{
		unix.NFTA_CMP_SREG: u32(1), unix.NFTA_CMP_OP: u32(unix.NFT_CMP_EQ),
		within(unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE): value,
	}) {
		p.bad = true
		return 0, false
	}
	return value[0], true
}

// keyRange is an element of a set: keys from first to last, both included.
type keyRange struct{ first, last []byte }

// lookup reads the lookup in a set of keys of the given length.
func (p *ruleParser) lookup(load rawExpr, interval bool, length int) []keyRange {
	// Ports and ICMP types are loaded alike but for the length.
	e, ok := p.takes(load)
	if !ok {
		return nil
	}
	name := e.attrs[unix.NFTA_LOOKUP_SET]
	attrs := map[int]string{unix.NFTA_LOOKUP_SET: name, unix.NFTA_LOOKUP_SREG: u32(1)}
	if flags, ok := e.attrs[unix.NFTA_LOOKUP_FLAGS]; ok && flags == u32(0) {
		attrs[unix.NFTA_LOOKUP_FLAGS] = flags
	}
	set, known := p.sets[strings.TrimRight(name, "\x00")]
	if !known || set.interval != interval || !e.is("lookup", attrs) {
		p.bad = true
		return nil
	}
	ranges, ok := keyRanges(set, length)
	if !ok || len(ranges) == 0 {
		p.bad = true
		return nil
	}
	return ranges
}

// keyRanges returns the elements of a set in order.
func keyRanges(set firewallSet, length int) ([]keyRange, bool) {
	elements := slices.SortedFunc(slices.Values(set.elements), func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		if a.IntervalEnd == b.IntervalEnd {
			return 0
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	var ranges []keyRange
	open := false
	for _, e := range elements {
		if len(e.Key) != length || len(e.Val) > 0 || len(e.KeyEnd) > 0 || e.Counter != nil || e.VerdictData != nil || e.Timeout != 0 {
			return nil, false
		}
		switch {
		case !set.interval:
			ranges = append(ranges, keyRange{e.Key, e.Key})
		case e.IntervalEnd && open:
			ranges[len(ranges)-1].last = before(e.Key)
			open = false
		case e.IntervalEnd:
			// Newer kernels and nft put an end at zero before the first interval.
		case open:
			return nil, false
		default:
			ranges = append(ranges, keyRange{e.Key, bytes.Repeat([]byte{0xff}, length)})
			open = true
		}
	}
	return ranges, true
}

// before returns the key that comes before, which must not be zero.
func before(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return key
}

func portsOf(keys []keyRange) []PortRange {
	var ranges []PortRange
	for _, k := range keys {
		ranges = append(ranges, PortRange{binary.BigEndian.Uint16(k.first), binary.BigEndian.Uint16(k.last)})
	}
	return ranges
}

func (p *ruleParser) state(bit uint32) string {
	for name, b := range stateBits {
		if b == bit {
			return name
		}
	}
	p.bad = true
	return ""
}

func (p *ruleParser) protocol(number byte) string {
	for name, n := range protocolNumbers {
		if n == number {
			return name
		}
	}
	p.bad = true
	return ""
}

// verdict reads the last expression and tells whether it is a drop.
func (p *ruleParser) verdict() bool {
	if len(p.rest) != 1 {
		p.bad = true
		return false
	}
	e := p.rest[0]
	p.rest = nil
	code := within(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT)
	if !e.is("immediate", map[int]string{unix.NFTA_IMMEDIATE_DREG: u32(unix.NFT_REG_VERDICT), code: e.attrs[code]}) {
		p.bad = true
		return false
	}
	switch e.attrs[code] {
	case verdictAttr(nfAccept):
		return false
	case verdictAttr(nfDrop):
		return true
	}
	p.bad = true
	return false
}

// The verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// verdictAttr is the content of NFTA_DATA_VERDICT: one attribute,
// NFTA_VERDICT_CODE, in the machine's byte order but for its value.
func verdictAttr(code uint32) string {
	b := binary.NativeEndian.AppendUint16(nil, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.NFTA_VERDICT_CODE)
	return string(binary.BigEndian.AppendUint32(b, code))
}
