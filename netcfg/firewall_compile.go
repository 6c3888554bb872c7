package netcfg

import (
	"encoding/binary"
	"fmt"
	"net/netip"

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

// setMaker adds an anonymous set to the transaction and returns it.
type setMaker func(key nftables.SetDatatype, interval bool, elements []nftables.SetElement) (*nftables.Set, error)

// compileRule returns the kernel's expressions of a rule. Values are always
// compared by a set, of one element even: there is one shape to write and to
// read back.
func compileRule(r FirewallRule, makeSet setMaker) ([]expr.Any, error) {
	var exprs []expr.Any
	var failed error
	lookup := func(load expr.Any, key nftables.SetDatatype, interval bool, elements []nftables.SetElement) {
		if len(elements) == 0 || failed != nil {
			return
		}
		set, err := makeSet(key, interval, elements)
		if err != nil {
			failed = fmt.Errorf("make set of rule %q: %w", r.Name, err)
			return
		}
		exprs = append(exprs, load, &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID})
	}
	is := func(key expr.MetaKey, value byte) {
		exprs = append(exprs, &expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}})
	}

	lookup(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, nftables.TypeIFName, false, interfaceElements(r.Interfaces))
	if len(r.From) > 0 {
		family, load, key := byte(unix.NFPROTO_IPV4), sourceAddress4, nftables.TypeIPAddr
		if r.From[0].Addr().Is6() {
			family, load, key = unix.NFPROTO_IPV6, sourceAddress6, nftables.TypeIP6Addr
		}
		is(expr.MetaKeyNFPROTO, family)
		if r.From[0].Bits() > 0 {
			lookup(&load, key, true, addressElements(r.From))
		}
	}
	lookup(&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, nftables.TypeCTState, false, stateElements(r.States))
	if r.Protocol != "" {
		number, ok := protocolNumbers[r.Protocol]
		if !ok {
			return nil, fmt.Errorf("rule %q: unknown protocol %q", r.Name, r.Protocol)
		}
		is(expr.MetaKeyL4PROTO, number)
	}
	icmp, source, dest := icmpType, sourcePort, destPort
	lookup(&icmp, typeKey(r.Protocol), false, typeElements(r.Types))
	lookup(&source, nftables.TypeInetService, true, portElements(r.SourcePorts))
	lookup(&dest, nftables.TypeInetService, true, portElements(r.Ports))
	verdict := expr.VerdictAccept
	if r.Drop {
		verdict = expr.VerdictDrop
	}
	return append(exprs, &expr.Verdict{Kind: verdict}), failed
}

func typeKey(protocol string) nftables.SetDatatype {
	if protocol == "icmpv6" {
		return nftables.TypeICMP6Type
	}
	return nftables.TypeICMPType
}

func interfaceElements(names []string) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, name := range names {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name)
		elements = append(elements, nftables.SetElement{Key: key})
	}
	return elements
}

func stateElements(states []string) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, state := range states {
		elements = append(elements, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(stateBits[state])})
	}
	return elements
}

func typeElements(types []uint8) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, t := range types {
		elements = append(elements, nftables.SetElement{Key: []byte{t}})
	}
	return elements
}

// portElements and addressElements make the elements of an interval set: each
// interval's first key, and the key after its last one, marked as an end and
// left out where there is none.
func portElements(ranges []PortRange) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r.First)})
		if r.Last < 65535 {
			elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, r.Last+1), IntervalEnd: true})
		}
	}
	return elements
}

func addressElements(from []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, r := range addrRanges(from) {
		elements = append(elements, nftables.SetElement{Key: r.first.AsSlice()})
		if next := r.last.Next(); next.IsValid() {
			elements = append(elements, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}
