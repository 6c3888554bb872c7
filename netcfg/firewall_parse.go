package netcfg

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Counter is what a rule has matched.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// parseRule reads a rule and its counter back, by the same steps as compileRule
// makes one. A rule that compileRule could not have made has its expressions in
// Other, without what they count.
func parseRule(raw rawRule, sets map[string]firewallSet) (FirewallRule, Counter) {
	p := ruleParser{chain: raw.chain, name: raw.comment, rest: raw.exprs, sets: sets}
	rule := FirewallRule{Name: raw.comment}
	p.parse(&rule)
	if p.bad || len(p.rest) > 0 {
		var words []string
		for _, e := range raw.exprs {
			words = append(words, describeExpr(e, sets))
		}
		return FirewallRule{Name: raw.comment, Other: "a rule that nodeagent does not make: " + strings.Join(words, " ")}, Counter{}
	}
	return rule, p.count
}

// describeExpr prints an expression with the content of the set that it looks
// up in, so that two rules that differ print differently.
func describeExpr(e rawExpr, sets map[string]firewallSet) string {
	set, ok := sets[strings.TrimRight(e.attrs[unix.NFTA_LOOKUP_SET], "\x00")]
	switch {
	case e.name == "counter":
		return e.name // what it counts is no difference
	case e.name != "lookup" || !ok:
		return e.String()
	}
	var keys []string
	for _, el := range set.elements {
		keys = append(keys, hex.EncodeToString(el.key))
	}
	return "lookup{" + strings.Join(keys, " ") + "}"
}

type ruleParser struct {
	chain, name string
	rest        []rawExpr
	sets        map[string]firewallSet
	count       Counter
	bad         bool
}

func (p *ruleParser) parse(r *FirewallRule) {
	r.Interfaces = namesOf(p.lookup(loadMeta(expr.MetaKeyIIFNAME), false, unix.IFNAMSIZ))
	r.Outbound = namesOf(p.lookup(loadMeta(expr.MetaKeyOIFNAME), false, unix.IFNAMSIZ))
	source := sourceAddress6
	if family, ok := p.compare(loadMeta(expr.MetaKeyNFPROTO)); ok {
		if family == unix.NFPROTO_IPV4 {
			source = sourceAddress4
		}
		p.ranges(r, family)
	}
	for _, key := range p.lookup(loadCt(unix.NFT_CT_STATE), false, 4) {
		r.States = append(r.States, p.state(binary.NativeEndian.Uint32(key.first)))
	}
	r.DNAT = p.dnat()
	if number, ok := p.compare(loadMeta(expr.MetaKeyL4PROTO)); ok {
		r.Protocol = p.protocol(number)
	}
	for _, key := range p.lookup(loadPayload(icmpType), false, 1) {
		r.Types = append(r.Types, key.first[0])
	}
	r.SourcePorts = portsOf(p.lookup(loadPayload(sourcePort), true, 2))
	r.Ports = portsOf(p.lookup(loadPayload(destPort), true, 2))
	r.Limit = p.limit(loadPayload(source), r)
	p.counter()
	p.verdict(r)
	slices.Sort(r.States)
	slices.Sort(r.Types)
}

// ranges reads what follows the comparison of the family. Every shape that
// nodeagent would write otherwise is none of its own.
func (p *ruleParser) ranges(r *FirewallRule, family byte) {
	four := family == unix.NFPROTO_IPV4
	source, dest := sourceAddress6, destAddress6
	if four {
		source, dest = sourceAddress4, destAddress4
	} else if family != unix.NFPROTO_IPV6 {
		p.bad = true
		return
	}
	// A limit by source loads the source as well: it is told apart by what
	// follows.
	r.From = p.addresses(source, false)
	r.To = p.addresses(dest, false)
	r.NotTo = p.addresses(dest, true)
	if len(r.From) == 0 && len(r.To) == 0 && len(r.NotTo) == 0 {
		r.From = []netip.Prefix{everything(four)}
	}
}

func (p *ruleParser) addresses(load expr.Payload, not bool) []netip.Prefix {
	keys := p.lookupOf(loadPayload(load), true, int(load.Len), not)
	ranges := make([]addrRange, 0, len(keys))
	for _, key := range keys {
		first, _ := netip.AddrFromSlice(key.first)
		last, _ := netip.AddrFromSlice(key.last)
		ranges = append(ranges, addrRange{first, last})
	}
	return prefixes(ranges)
}

func namesOf(keys []keyRange) []string {
	var names []string
	for _, key := range keys {
		names = append(names, string(bytes.TrimRight(key.first, "\x00")))
	}
	slices.Sort(names)
	return names
}

// takes tells whether the next expression is the given one and another of the
// name follows, and if so returns that one and goes past both.
func (p *ruleParser) takes(load rawExpr, name string) (rawExpr, bool) {
	if p.bad || len(p.rest) < 2 || !p.rest[0].is(load.name, load.attrs) || p.rest[1].name != name {
		return rawExpr{}, false
	}
	next := p.rest[1]
	p.rest = p.rest[2:]
	return next, true
}

// next returns the next expression if it has the name, and goes past it.
func (p *ruleParser) next(name string) (rawExpr, bool) {
	if p.bad || len(p.rest) == 0 || p.rest[0].name != name {
		return rawExpr{}, false
	}
	e := p.rest[0]
	p.rest = p.rest[1:]
	return e, true
}

// compare reads the comparison of one byte.
func (p *ruleParser) compare(load rawExpr) (byte, bool) {
	e, ok := p.takes(load, "cmp")
	if !ok {
		return 0, false
	}
	value := e.attrs[within(unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)]
	if len(value) != 1 || !e.is("cmp", compareAttrs(unix.NFT_CMP_EQ, value)) {
		p.bad = true
		return 0, false
	}
	return value[0], true
}

func compareAttrs(op uint32, value string) map[int]string {
	return map[int]string{
		unix.NFTA_CMP_SREG: u32(1), unix.NFTA_CMP_OP: u32(op),
		within(unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE): value,
	}
}

// dnat reads "ct status dnat".
func (p *ruleParser) dnat() bool {
	mask, ok := p.takes(loadCt(unix.NFT_CT_STATUS), "bitwise")
	if !ok {
		return false
	}
	native := string(binary.NativeEndian.AppendUint32(nil, statusDNAT))
	zero := string(make([]byte, 4))
	attrs := map[int]string{
		unix.NFTA_BITWISE_SREG: u32(1), unix.NFTA_BITWISE_DREG: u32(1), unix.NFTA_BITWISE_LEN: u32(4),
		within(unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE): native,
		within(unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE):  zero,
	}
	const op = 6 // NFTA_BITWISE_OP, which newer kernels tell: a mask and an xor
	if mask.attrs[op] == u32(0) {
		attrs[op] = u32(0)
	}
	compare, ok := p.next("cmp")
	if !ok || !mask.is("bitwise", attrs) || !compare.is("cmp", compareAttrs(unix.NFT_CMP_NEQ, zero)) {
		p.bad = true
	}
	return true
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

// counter reads the rule's counter.
func (p *ruleParser) counter() {
	e, ok := p.next("counter")
	packets, bytes := e.attrs[unix.NFTA_COUNTER_PACKETS], e.attrs[unix.NFTA_COUNTER_BYTES]
	if !ok || len(packets) != 8 || len(bytes) != 8 || !e.is("counter", map[int]string{
		unix.NFTA_COUNTER_PACKETS: packets, unix.NFTA_COUNTER_BYTES: bytes,
	}) {
		p.bad = true
		return
	}
	p.count = Counter{binary.BigEndian.Uint64([]byte(packets)), binary.BigEndian.Uint64([]byte(bytes))}
}

// verdict reads the last expression.
func (p *ruleParser) verdict(r *FirewallRule) {
	if len(p.rest) != 1 {
		p.bad = true
		return
	}
	e := p.rest[0]
	p.rest = nil
	code := within(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT)
	isVerdict := e.is("immediate", map[int]string{unix.NFTA_IMMEDIATE_DREG: u32(unix.NFT_REG_VERDICT), code: e.attrs[code]})
	switch {
	case e.is("masq", nil):
		r.Masquerade = true
	case isVerdict && e.attrs[code] == verdictAttr(nfDrop):
		r.Drop = true
	case !isVerdict || e.attrs[code] != verdictAttr(nfAccept):
		p.bad = true
	}
}
