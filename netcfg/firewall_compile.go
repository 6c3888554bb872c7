package netcfg

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The numbers of the protocols and connection states that rules name.
var (
	protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6}
	stateBits       = map[string]uint32{"established": expr.CtStateBitESTABLISHED, "related": expr.CtStateBitRELATED, "invalid": expr.CtStateBitINVALID}
)

// A source of packet data that is compared with a set: where it lies, and what
// the set's keys are. The packet's own bytes are looked up, in network order;
// what the kernel knows of it is in the machine's.
var (
	sourceAddress4 = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	sourceAddress6 = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}
	icmpType       = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}
	sourcePort     = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}
	destPort       = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
)

// Where destinations lie.
var (
	destAddress4 = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	destAddress6 = expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
)

// statusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDNAT = 1 << 5

// keySet is what a set of the kernel holds: keys of the type, or ranges of keys
// that follow each other in the order of memcmp.
type keySet struct {
	key      nftables.SetDatatype
	interval bool
	// native tells that keys are in the machine's byte order; others are in the
	// network's. nft(8) wants to know.
	native bool
	ranges []keyRange
}

// keyRange is an element of a set: keys from first to last, both included.
type keyRange struct{ first, last []byte }

// setMaker adds an anonymous constant set to the transaction and returns the
// name and number by which the same transaction refers to it.
type setMaker func(keySet) (name string, id uint32)

// compileRule returns the kernel's expressions of a rule of the chain, whose
// counter begins with count. Values are always compared by a set, of one element
// even: there is one shape to write and to read back.
func compileRule(chain string, r FirewallRule, count Counter, makeSet setMaker) ([]expr.Any, error) {
	c := ruleCompiler{makeSet: makeSet}
	c.lookup(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, interfaceSet(r.Interfaces), false)
	c.lookup(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, interfaceSet(r.Outbound), false)
	four, ranged := r.family()
	source, dest := sourceAddress6, destAddress6
	if four {
		source, dest = sourceAddress4, destAddress4
	}
	if ranged {
		family := byte(unix.NFPROTO_IPV6)
		if four {
			family = unix.NFPROTO_IPV4
		}
		c.is(expr.MetaKeyNFPROTO, family)
		if !isEverything(r.From) {
			c.lookup(&source, addressSet(r.From), false)
		}
		c.lookup(&dest, addressSet(r.To), false)
		c.lookup(&dest, addressSet(r.NotTo), true)
	}
	c.lookup(&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, stateSet(r.States), false)
	if r.DNAT {
		c.add(compiledDNAT()...)
	}
	if r.Protocol != "" {
		number, ok := protocolNumbers[r.Protocol]
		if !ok {
			return nil, fmt.Errorf("rule %q: unknown protocol %q", r.Name, r.Protocol)
		}
		c.is(expr.MetaKeyL4PROTO, number)
	}
	icmp, from, to := icmpType, sourcePort, destPort
	c.lookup(&icmp, typeSet(r.Protocol, r.Types), false)
	c.lookup(&from, portSet(r.SourcePorts), false)
	c.lookup(&to, portSet(r.Ports), false)
	if r.Limit != nil {
		if r.Limit.BySource && !ranged {
			return nil, fmt.Errorf("rule %q: a limit by source needs a family", r.Name)
		}
		c.limit(*r.Limit, source, sourcesName(chain, r.Name))
	}
	c.add(&expr.Counter{Packets: count.Packets, Bytes: count.Bytes}, r.verdict())
	return c.exprs, nil
}

// family returns the family of the rule's ranges: IPv4 or not, where it has any.
func (r FirewallRule) family() (four, ok bool) {
	for _, list := range [][]netip.Prefix{r.From, r.To, r.NotTo} {
		if len(list) > 0 {
			return list[0].Addr().Is4(), true
		}
	}
	return false, false
}

func (r FirewallRule) verdict() expr.Any {
	switch {
	case r.Drop:
		return &expr.Verdict{Kind: expr.VerdictDrop}
	case r.Masquerade:
		return &expr.Masq{}
	}
	return &expr.Verdict{Kind: expr.VerdictAccept}
}

type ruleCompiler struct {
	makeSet setMaker
	exprs   []expr.Any
}

func (c *ruleCompiler) add(exprs ...expr.Any) { c.exprs = append(c.exprs, exprs...) }

// lookup matches what load gives by the set, or with not what is not in it.
func (c *ruleCompiler) lookup(load expr.Any, set keySet, not bool) {
	if len(set.ranges) == 0 {
		return
	}
	name, id := c.makeSet(set)
	c.add(load, &expr.Lookup{SourceRegister: 1, SetName: name, SetID: id, Invert: not})
}

func (c *ruleCompiler) is(key expr.MetaKey, value byte) {
	c.add(&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}})
}

// limit takes a token of the rule's bucket, or of the source's.
func (c *ruleCompiler) limit(l FirewallLimit, source expr.Payload, sources string) {
	bucket := compiledLimit(l)
	if !l.BySource {
		c.add(bucket)
		return
	}
	c.add(&source, &expr.Dynset{
		SrcRegKey: 1, SetName: sources, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE), Exprs: []expr.Any{bucket},
	})
}

func compiledLimit(l FirewallLimit) *expr.Limit {
	return &expr.Limit{
		Type: expr.LimitTypePkts, Rate: uint64(l.Count), Unit: expr.LimitTime(l.Per / time.Second), Burst: uint32(l.Burst),
	}
}

// compiledDNAT is "ct status dnat".
func compiledDNAT() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// maxSources is how many sources the set of a limit holds. While it is full,
// further sources are not accepted by its rule.
const maxSources = 65535

// forgetAfter is how long a source's bucket takes to fill up, after which it is
// as good as none: how long it is kept, in whole seconds.
func (l FirewallLimit) forgetAfter() time.Duration {
	full := time.Duration(float64(l.Per) * float64(l.Burst) / float64(max(l.Count, 1)))
	return max(full, l.Per).Truncate(time.Second) + time.Second
}

func interfaceSet(names []string) keySet {
	s := keySet{key: nftables.TypeIFName, native: true}
	for _, name := range names {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name)
		s.ranges = append(s.ranges, keyRange{key, key})
	}
	return s
}

func stateSet(states []string) keySet {
	s := keySet{key: nftables.TypeCTState, native: true}
	for _, state := range states {
		key := binaryutil.NativeEndian.PutUint32(stateBits[state])
		s.ranges = append(s.ranges, keyRange{key, key})
	}
	return s
}

func typeSet(protocol string, types []uint8) keySet {
	s := keySet{key: nftables.TypeICMPType}
	if protocol == "icmpv6" {
		s.key = nftables.TypeICMP6Type
	}
	for _, t := range types {
		s.ranges = append(s.ranges, keyRange{[]byte{t}, []byte{t}})
	}
	return s
}

func portSet(ranges []PortRange) keySet {
	s := keySet{key: nftables.TypeInetService, interval: true}
	for _, r := range ranges {
		s.ranges = append(s.ranges, keyRange{
			binary.BigEndian.AppendUint16(nil, r.First), binary.BigEndian.AppendUint16(nil, r.Last),
		})
	}
	return s
}

func addressSet(list []netip.Prefix) keySet {
	s := keySet{key: nftables.TypeIPAddr, interval: true}
	if len(list) > 0 && list[0].Addr().Is6() {
		s.key = nftables.TypeIP6Addr
	}
	ranges := addrRanges(list)
	s.ranges = make([]keyRange, 0, len(ranges))
	for _, r := range ranges {
		s.ranges = append(s.ranges, keyRange{r.first.AsSlice(), r.last.AsSlice()})
	}
	return s
}

// after returns the key that comes after, false where there is none.
func after(key []byte) ([]byte, bool) {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]++
		if key[i] != 0 {
			return key, true
		}
	}
	return nil, false
}
