package netcfg

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firewallSet is a set of the table.
type firewallSet struct {
	// constant is an anonymous constant set, the one kind whose elements nobody
	// can change while it lives.
	constant bool
	// sources is a set in which the packets of a limited rule enter their source.
	// What it holds is no setting and is not looked at.
	sources  bool
	interval bool
	length   int // of a key in bytes
	timeout  time.Duration
	elements []setElement
}

// setElement is a key of a set, or with end the key after the last of a range.
type setElement struct {
	key []byte
	end bool
	// other tells that it carries something that nodeagent does not give it.
	other bool
}

// lookup reads the lookup in a set of keys of the given length.
func (p *ruleParser) lookup(load rawExpr, interval bool, length int) []keyRange {
	return p.lookupOf(load, interval, length, false)
}

// lookupOf is lookup; with not what is in the set does not match. Two lookups
// of the same data are told apart by that.
func (p *ruleParser) lookupOf(load rawExpr, interval bool, length int, not bool) []keyRange {
	if len(p.rest) > 1 && (p.rest[1].attrs[unix.NFTA_LOOKUP_FLAGS] == u32(unix.NFT_LOOKUP_F_INV)) != not {
		return nil
	}
	e, ok := p.takes(load, "lookup")
	if !ok {
		return nil
	}
	name := e.attrs[unix.NFTA_LOOKUP_SET]
	attrs := map[int]string{unix.NFTA_LOOKUP_SET: name, unix.NFTA_LOOKUP_SREG: u32(1)}
	switch flags := e.attrs[unix.NFTA_LOOKUP_FLAGS]; {
	case not:
		attrs[unix.NFTA_LOOKUP_FLAGS] = u32(unix.NFT_LOOKUP_F_INV)
	case flags == u32(0):
		attrs[unix.NFTA_LOOKUP_FLAGS] = flags
	}
	set, known := p.sets[strings.TrimRight(name, "\x00")]
	if !known || !set.constant || set.interval != interval || set.length != length || !e.is("lookup", attrs) {
		p.bad = true
		return nil
	}
	ranges, ok := keyRanges(set)
	if !ok || len(ranges) == 0 {
		p.bad = true
		return nil
	}
	return ranges
}

// keyRanges returns the elements of a set in order.
func keyRanges(set firewallSet) ([]keyRange, bool) {
	byKey := func(a, b setElement) int {
		switch c := bytes.Compare(a.key, b.key); {
		case c != 0:
			return c
		case a.end == b.end:
			return 0
		case a.end:
			return -1
		}
		return 1
	}
	elements := set.elements
	if !slices.IsSortedFunc(elements, byKey) {
		elements = slices.SortedFunc(slices.Values(elements), byKey)
	}
	ranges := make([]keyRange, 0, len(elements))
	open := false
	for _, e := range elements {
		if len(e.key) != set.length || e.other {
			return nil, false
		}
		switch {
		case !set.interval && e.end:
			return nil, false
		case !set.interval:
			ranges = append(ranges, keyRange{e.key, e.key})
		case e.end && open:
			ranges[len(ranges)-1].last = before(e.key)
			open = false
		case e.end:
			// Newer kernels and nft put an end at zero before the first interval.
		case open:
			return nil, false
		default:
			ranges = append(ranges, keyRange{e.key, bytes.Repeat([]byte{0xff}, set.length)})
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
