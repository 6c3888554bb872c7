package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Firewall is the content of nodeagent's nftables table: one chain on the input
// hook that drops what no rule accepts.
//
// There is no chain on the forward hook. What pods send and receive is
// forwarded, connections to Services and node ports too (kube-proxy rewrites
// their destination before routing), and the CNI plugin and network policies
// decide on it; a drop here would break them. Traffic to a node port is thus
// not subject to these rules, unless it ends at a pod in the host's own network,
// where it arrives with the pod's port.
type Firewall struct {
	// Base describes the table and its chain. Wanted, it is [firewallBase].
	Base string
	// Rules are in order; the first that matches decides.
	Rules []FirewallRule
	// Other names chains in the table that nodeagent never makes. Observed only.
	Other []string
}

// firewallBase is the Base of every wanted firewall.
const firewallBase = "drop what no rule accepts"

// FirewallRule matches packets by all of its fields that are set. Wanted and
// observed rules are equal when they do the same.
type FirewallRule struct {
	// Name is unique among wanted rules; the kernel keeps it as the rule's
	// comment.
	Name string
	// Interfaces are inbound ones, sorted.
	Interfaces []string
	// From are source ranges of one family: the fewest prefixes, sorted.
	From []netip.Prefix
	// States of the connection, sorted: "established", "invalid", "related".
	States []string
	// Protocol is "tcp", "udp", "icmp", "icmpv6" or empty for any.
	Protocol string
	// Types are ICMP message types, sorted.
	Types []uint8
	// SourcePorts and Ports are merged and sorted.
	SourcePorts, Ports []PortRange
	// Drop tells that the rule drops; it accepts otherwise.
	Drop bool
	// Other is what the kernel has where it is no rule that nodeagent makes.
	// Observed only.
	Other string
}

// PortRange are the ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// String returns "22" or "30000-32767".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// String returns what the rule does in words: "accept tcp 22 from
// 198.51.100.0/24".
func (r FirewallRule) String() string {
	if r.Other != "" {
		return r.Other
	}
	words := []string{"accept"}
	if r.Drop {
		words[0] = "drop"
	}
	add := func(format string, list string) {
		if list != "" {
			words = append(words, fmt.Sprintf(format, list))
		}
	}
	if r.Protocol == "" && len(r.States) == 0 {
		words = append(words, "everything")
	}
	add("%s connections", strings.Join(r.States, ", "))
	add("%s", r.Protocol)
	add("type %s", join(r.Types))
	add("%s", join(r.Ports))
	add("from port %s", join(r.SourcePorts))
	add("from %s", join(r.From))
	add("on %s", strings.Join(r.Interfaces, ", "))
	return strings.Join(words, " ")
}

func join[T any](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}

// same tells whether two rules have the same name and do the same.
func (r FirewallRule) same(o FirewallRule) bool {
	return r.Name == o.Name && r.Drop == o.Drop && r.Other == o.Other &&
		r.Protocol == o.Protocol &&
		slices.Equal(r.Interfaces, o.Interfaces) && slices.Equal(r.From, o.From) &&
		slices.Equal(r.States, o.States) && slices.Equal(r.Types, o.Types) &&
		slices.Equal(r.SourcePorts, o.SourcePorts) && slices.Equal(r.Ports, o.Ports)
}

func (f *Firewall) same(o *Firewall) bool {
	if f == nil || o == nil {
		return f == o
	}
	return f.Base == o.Base && slices.Equal(f.Other, o.Other) &&
		slices.EqualFunc(f.Rules, o.Rules, FirewallRule.same)
}

// String lists the rules, one a line with its name in front.
func (f *Firewall) String() string {
	if f == nil {
		return ""
	}
	lines := []string{f.Base}
	lines = append(lines, f.Other...)
	for _, r := range f.Rules {
		lines = append(lines, r.Name+": "+r.String())
	}
	return strings.Join(lines, "\n")
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
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

// prefixes returns the fewest prefixes that cover the ranges, sorted.
func prefixes(ranges []addrRange) []netip.Prefix {
	var list []netip.Prefix
	for _, r := range ranges {
		for first := r.first; first.IsValid() && first.Compare(r.last) <= 0; {
			// The widest prefix that begins here and ends within the range.
			widest := netip.PrefixFrom(first, first.BitLen())
			for bits := first.BitLen() - 1; bits >= 0; bits-- {
				p := netip.PrefixFrom(first, bits)
				if p.Masked().Addr() != first || lastAddr(p).Compare(r.last) > 0 {
					break
				}
				widest = p
			}
			list = append(list, widest)
			first = lastAddr(widest).Next()
		}
	}
	return list
}
