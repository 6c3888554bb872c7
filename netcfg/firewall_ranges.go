package netcfg

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
)

// PortRange are the ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// String returns "22" or "30000-32767".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// portRanges merges ports into the fewest ranges.
func portRanges(ports []uint16) []PortRange {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	var ranges []PortRange
	for _, p := range ports {
		if last := len(ranges) - 1; last >= 0 && int(p) <= int(ranges[last].Last)+1 {
			ranges[last].Last = p
			continue
		}
		ranges = append(ranges, PortRange{p, p})
	}
	return ranges
}

// addrRange are the addresses from first to last, both included, of one family.
type addrRange struct{ first, last netip.Addr }

// addrRanges merges prefixes of one family into the fewest ranges, sorted. The
// kernel's interval sets take no two that overlap.
func addrRanges(prefixes []netip.Prefix) []addrRange {
	var ranges []addrRange
	for _, p := range prefixes {
		ranges = append(ranges, addrRange{p.Masked().Addr(), lastAddr(p)})
	}
	slices.SortFunc(ranges, func(a, b addrRange) int {
		return cmp.Or(a.first.Compare(b.first), a.last.Compare(b.last))
	})
	var merged []addrRange
	for _, r := range ranges {
		if n := len(merged) - 1; n >= 0 {
			next := merged[n].last.Next()
			if !next.IsValid() || r.first.Compare(next) <= 0 {
				if r.last.Compare(merged[n].last) > 0 {
					merged[n].last = r.last
				}
				continue
			}
		}
		merged = append(merged, r)
	}
	return merged
}

// lastAddr returns the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	first := addrNumberOf(p.Masked().Addr())
	return first.plus(blockOf(p.Addr().BitLen() - p.Bits())).addr(p.Addr().Is4())
}

// prefixes returns the fewest prefixes that cover the ranges, sorted.
func prefixes(ranges []addrRange) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(ranges))
	for _, r := range ranges {
		four, width := r.first.Is4(), r.first.BitLen()
		first, last := addrNumberOf(r.first), addrNumberOf(r.last)
		for {
			// The widest block that begins here and ends within the range.
			host := min(first.trailingZeros(), width)
			for host > 0 && last.less(first.plus(blockOf(host))) {
				host--
			}
			list = append(list, netip.PrefixFrom(first.addr(four), width-host))
			end := first.plus(blockOf(host))
			if !end.less(last) {
				break
			}
			first = end.plus(addrNumber{0, 1})
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// addrNumber is an address as a number: of IPv4 the lowest 32 bits.
type addrNumber struct{ high, low uint64 }

func addrNumberOf(a netip.Addr) addrNumber {
	if a.Is4() {
		b := a.As4()
		return addrNumber{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return addrNumber{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n addrNumber) addr(four bool) netip.Addr {
	if four {
		return netip.AddrFrom4([4]byte{byte(n.low >> 24), byte(n.low >> 16), byte(n.low >> 8), byte(n.low)})
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.high)
	binary.BigEndian.PutUint64(b[8:], n.low)
	return netip.AddrFrom16(b)
}

// blockOf is the number whose lowest bits are all set: what a block of that
// many host bits adds to its first address to reach its last.
func blockOf(host int) addrNumber {
	if host >= 64 {
		return addrNumber{1<<(host-64) - 1, ^uint64(0)}
	}
	return addrNumber{0, 1<<host - 1}
}

func (n addrNumber) plus(o addrNumber) addrNumber {
	low, carry := bits.Add64(n.low, o.low, 0)
	high, _ := bits.Add64(n.high, o.high, carry)
	return addrNumber{high, low}
}

func (n addrNumber) less(o addrNumber) bool {
	return n.high < o.high || n.high == o.high && n.low < o.low
}

func (n addrNumber) trailingZeros() int {
	if n.low != 0 {
		return bits.TrailingZeros64(n.low)
	}
	return 64 + bits.TrailingZeros64(n.high)
}
