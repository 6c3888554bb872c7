package netcfg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Rule is one policy rule: it says in which table a packet is looked up. Rules
// are nodeagent's by their protocol (FRA_PROTOCOL, since Linux 4.17).
type Rule struct {
	IPv6     bool
	Priority int
	// The packets that the rule is about: everything that is not set matches any.
	From, To          netip.Prefix // masked
	Inbound, Outbound string       // link names; the links need not exist
	Mark, Mask        uint32       // where Mask is not 0
	IPProtocol        string       // "tcp", "udp", "icmp", or a number
	SourcePort, Port  uint16
	// Action is "" for a lookup in Table, else "blackhole", "unreachable" or
	// "prohibit".
	Action string
	Table  int // 254 for the main table; 0 with another Action
	// ShorterThan ignores routes whose prefix is shorter than this many bits; 0
	// for none. It is the kernel's suppress_prefixlength and one.
	ShorterThan int
	// Protocol is who made the rule. See Route.
	Protocol int
	// Adopt takes over rules of the same family and priority that somebody else
	// made. Wanted only.
	Adopt bool
	// Exact tells that the rule is wanted as it once was ([Back]): the same one
	// of another maker does not serve. Wanted only.
	Exact bool
	// Other names what a spec cannot say ("for a range of users"); a rule with it
	// never satisfies. Observed only.
	Other string
}

// does tells whether two rules do the same with the same packets, at the same
// place.
func (r Rule) does(s Rule) bool {
	r.Protocol, r.Adopt, r.Exact = s.Protocol, s.Adopt, s.Exact
	return r == s && r.Other == ""
}

// samePlace tells whether two rules have the same family and priority.
func (r Rule) samePlace(s Rule) bool { return r.IPv6 == s.IPv6 && r.Priority == s.Priority }

// wide tells whether the kernel follows the rule also when it looks for the way
// to a gateway: that packet has neither source, mark nor protocol.
func (r Rule) wide() bool {
	return !r.From.IsValid() && r.Mark == 0 && r.IPProtocol == "" && r.SourcePort == 0 && r.Port == 0 &&
		(r.Inbound == "" || r.Inbound == "lo")
}

func wantRules(specs []hosts.Rule) []Rule {
	var rules []Rule
	for _, s := range specs {
		r := Rule{
			IPv6: s.IPv6, Priority: s.Priority, Inbound: s.Inbound, Outbound: s.Outbound,
			IPProtocol: s.Protocol, SourcePort: s.SourcePort, Port: s.Port,
			Table: s.Table, Protocol: RouteProtocol, Adopt: s.Adopt,
		}
		if s.From.IsValid() && s.From.Bits() > 0 { // all is the same as any
			r.From = s.From.Masked()
		}
		if s.To.IsValid() && s.To.Bits() > 0 {
			r.To = s.To.Masked()
		}
		if s.Mask != 0 {
			r.Mark, r.Mask = s.Mark&s.Mask, s.Mask
		}
		if s.Action != "" && s.Action != "lookup" {
			r.Action, r.Table = s.Action, 0
		}
		if s.SuppressPrefixLength != nil && r.Action == "" {
			r.ShorterThan = *s.SuppressPrefixLength + 1
		}
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(a.String(), b.String()) })
	sortRules(rules)
	return slices.Compact(rules)
}

// sortRules orders by family and priority. Rules at one place keep their order,
// which is the kernel's: it asks them one after the other.
func sortRules(rules []Rule) {
	slices.SortStableFunc(rules, func(a, b Rule) int {
		family := func(r Rule) int {
			if r.IPv6 {
				return 6
			}
			return 4
		}
		return cmp.Or(
			cmp.Compare(family(a), family(b)),
			cmp.Compare(a.Priority, b.Priority),
		)
	})
}

// ruleDiff is the changes of rules by when they happen.
type ruleDiff struct {
	put    []plan.Change // after the routes, which fill the tables
	delete []plan.Change // after all is added, before the routes are deleted
}

// diffPolicyRules compares rules. The kernel has room for any number of rules at one
// place, so that a changed rule is added before the old one is deleted, and a
// rule of somebody else's is never in the way.
func diffPolicyRules(have, want State) ruleDiff {
	var d ruleDiff
	used := make([]bool, len(have.Rules))
	for _, w := range want.Rules {
		d.rule(have.Rules, used, w)
	}
	for i, h := range have.Rules {
		if h.Protocol == RouteProtocol && !used[i] {
			d.drop(h, reasonUnwanted)
		}
	}
	return d
}

func (d *ruleDiff) rule(have []Rule, used []bool, w Rule) {
	before, there, adopted := "", false, false
	owner := cmp.Or(w.Protocol, RouteProtocol)
	for i, h := range have {
		switch {
		case used[i] || !h.samePlace(w):
		case !there && h.does(w) && (h.Protocol == owner || !w.Adopt && !w.Exact && owner == RouteProtocol):
			there, used[i] = true, true
		case w.Adopt && h.Protocol != RouteProtocol && h.Protocol != owner && h.Protocol != unix.RTPROT_KERNEL:
			adopted = adopted || h.does(w)
			before = h.String()
			used[i] = true
			d.drop(h, fmt.Sprintf("the spec adopts it from %s", maker(h.Protocol)))
		case h.Protocol == RouteProtocol && before == "":
			before = h.String()
		}
	}
	switch {
	case there:
	case adopted:
		d.put = append(d.put, change(ruleKey(w), plan.ActionUpdate, plan.Quiet, "the spec adopts it", before+" (somebody else's)", w.String(), putRule{w}))
	case before != "":
		d.put = append(d.put, change(ruleKey(w), plan.ActionUpdate, plan.Disconnect, "the spec wants other values", before, w.String(), putRule{w}))
	default:
		d.put = append(d.put, change(ruleKey(w), plan.ActionCreate, plan.Disconnect, reasonMissing, "", w.String(), putRule{w}))
	}
}

func (d *ruleDiff) drop(h Rule, reason string) {
	d.delete = append(d.delete, change(ruleKey(h), plan.ActionDelete, plan.Disconnect, reason, h.String(), "", deleteRule{h}))
}

// ruleKey names the place of a rule.
func ruleKey(r Rule) string {
	if r.IPv6 {
		return fmt.Sprintf("rule %d ipv6", r.Priority)
	}
	return fmt.Sprintf("rule %d", r.Priority)
}

// String returns the rule in the words of ip-rule(8):
// "100: from 10.0.0.0/8 fwmark 0x1/0xff lookup 100".
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d: from ", r.Priority)
	if r.From.IsValid() {
		b.WriteString(r.From.String())
	} else {
		b.WriteString("all")
	}
	if r.To.IsValid() {
		fmt.Fprintf(&b, " to %s", r.To)
	}
	if r.Inbound != "" {
		fmt.Fprintf(&b, " iif %s", r.Inbound)
	}
	if r.Outbound != "" {
		fmt.Fprintf(&b, " oif %s", r.Outbound)
	}
	if r.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.IPProtocol != "" {
		fmt.Fprintf(&b, " ipproto %s", r.IPProtocol)
	}
	if r.SourcePort != 0 {
		fmt.Fprintf(&b, " sport %d", r.SourcePort)
	}
	if r.Port != 0 {
		fmt.Fprintf(&b, " dport %d", r.Port)
	}
	if r.Other != "" {
		fmt.Fprintf(&b, " %s", r.Other)
	}
	if r.Action != "" {
		fmt.Fprintf(&b, " %s", r.Action)
	} else {
		fmt.Fprintf(&b, " lookup %d", r.Table)
	}
	if r.ShorterThan != 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.ShorterThan-1)
	}
	return b.String()
}
