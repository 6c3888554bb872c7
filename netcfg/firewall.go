package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Firewall is the content of nodeagent's nftables table: a chain on the input
// hook that drops what no rule accepts; where the spec asks for them, one on the
// forward hook that does the same with what the host forwards, and one that
// gives packets leaving the host its address.
//
// Traffic to a node port is not subject to the rules of input, unless it ends
// at a pod in the host's own network, where it arrives with the pod's port:
// kube-proxy rewrites the destination before routing.
type Firewall struct {
	// Base describes the chain on the input hook: empty where there is, or is to
	// be, none, and [firewallBase] where it is as nodeagent makes it.
	Base string
	// Rules of the input chain are in order; the first that matches decides.
	Rules []FirewallRule
	// Forward and Masquerade are nil where there is, or is to be, no such chain.
	Forward, Masquerade *FirewallChain
	// Other names what is in the table and nodeagent never makes: "chain x".
	// Observed only.
	Other []string
	// Idle names sets of limits by source that no rule uses. Observed only.
	Idle []string
}

// FirewallChain is a chain other than the one on the input hook.
type FirewallChain struct {
	// Base is firewallBase or masqueradeBase, or what is different.
	Base  string
	Rules []FirewallRule
}

// The Base of wanted chains. The first says two things of a chain: its policy,
// and that its last rule, which is none of Rules, drops and counts the rest.
const (
	firewallBase   = "drop what no rule accepts"
	masqueradeBase = "leave alone what no rule names"
)

// FirewallRule matches packets by all of its fields that are set. Wanted and
// observed rules are equal when they do the same.
type FirewallRule struct {
	// Name is unique among the wanted rules of a chain; the kernel keeps it as
	// the rule's comment.
	Name string
	// Interfaces are inbound and Outbound are outbound ones, sorted.
	Interfaces, Outbound []string
	// From and To are ranges of sources and destinations, NotTo of destinations
	// that do not match: of one family, the fewest prefixes, sorted. A prefix of
	// length 0 is in From alone, and only where nothing else tells the family.
	From, To, NotTo []netip.Prefix
	// States of the connection, sorted: "established", "invalid", "related".
	States []string
	// DNAT asks that the connection's destination was rewritten on this host.
	DNAT bool
	// Protocol is "tcp", "udp", "icmp", "icmpv6" or empty for any.
	Protocol string
	// Types are ICMP message types, sorted.
	Types []uint8
	// SourcePorts and Ports are merged and sorted.
	SourcePorts, Ports []PortRange
	// Limit lets only so many packets match.
	Limit *FirewallLimit
	// Drop and Masquerade tell what the rule does; it accepts otherwise.
	Drop, Masquerade bool
	// Other is what the kernel has where it is no rule that nodeagent makes.
	// Observed only.
	Other string
}

// FirewallLimit is a token bucket (nft(8), LIMIT STATEMENT): it holds Burst
// tokens at most and gains Count in the time of Per.
type FirewallLimit struct {
	Count    int
	Per      time.Duration // a second, a minute, an hour or a day
	Burst    int           // at least 1
	BySource bool          // a bucket for each source address
}

// String returns "10 a minute from each source, 5 at once".
func (l FirewallLimit) String() string {
	source := ""
	if l.BySource {
		source = " from each source"
	}
	return fmt.Sprintf("%d %s%s, %d at once", l.Count, limitWords[l.Per], source, l.Burst)
}

var limitWords = map[time.Duration]string{
	time.Second: "a second", time.Minute: "a minute", time.Hour: "an hour", 24 * time.Hour: "a day",
}

// String returns what the rule does in words: "accept tcp 22 from
// 198.51.100.0/24".
func (r FirewallRule) String() string {
	if r.Other != "" {
		return r.Other
	}
	words := []string{"accept"}
	switch {
	case r.Drop:
		words[0] = "drop"
	case r.Masquerade:
		words[0] = "masquerade"
	}
	add := func(format string, list string) {
		if list != "" {
			words = append(words, fmt.Sprintf(format, list))
		}
	}
	if r.Protocol == "" && len(r.States) == 0 && !r.DNAT {
		words = append(words, "everything")
	}
	add("%s connections", strings.Join(r.States, ", "))
	if r.DNAT {
		words = append(words, "connections whose destination was rewritten")
	}
	add("%s", r.Protocol)
	add("type %s", join(r.Types))
	add("%s", join(r.Ports))
	add("from port %s", join(r.SourcePorts))
	add("from %s", join(r.From))
	add("to %s", join(r.To))
	add("to anywhere but %s", join(r.NotTo))
	add("on %s", strings.Join(r.Interfaces, ", "))
	add("out by %s", strings.Join(r.Outbound, ", "))
	if r.Limit != nil {
		words = append(words, "at most "+r.Limit.String())
	}
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
	return r.Name == o.Name && r.Drop == o.Drop && r.Masquerade == o.Masquerade && r.Other == o.Other &&
		r.Protocol == o.Protocol && r.DNAT == o.DNAT && r.sameLimit(o) &&
		slices.Equal(r.Interfaces, o.Interfaces) && slices.Equal(r.Outbound, o.Outbound) &&
		slices.Equal(r.From, o.From) && slices.Equal(r.To, o.To) && slices.Equal(r.NotTo, o.NotTo) &&
		slices.Equal(r.States, o.States) && slices.Equal(r.Types, o.Types) &&
		slices.Equal(r.SourcePorts, o.SourcePorts) && slices.Equal(r.Ports, o.Ports)
}

func (r FirewallRule) sameLimit(o FirewallRule) bool {
	if r.Limit == nil || o.Limit == nil {
		return r.Limit == o.Limit
	}
	return *r.Limit == *o.Limit
}

func (f *Firewall) same(o *Firewall) bool {
	if f == nil || o == nil {
		return f == o
	}
	return slices.Equal(f.Other, o.Other) &&
		slices.EqualFunc(f.chains(), o.chains(), firewallChain.same)
}

// firewallChain is one chain of the table by the kernel's name for it.
type firewallChain struct {
	name string
	FirewallChain
}

// wantBase is the Base of the chain as nodeagent makes it.
func (c firewallChain) wantBase() string {
	if c.name == masqueradeChain {
		return masqueradeBase
	}
	return firewallBase
}

func (c firewallChain) same(o firewallChain) bool {
	return c.name == o.name && c.Base == o.Base && slices.EqualFunc(c.Rules, o.Rules, FirewallRule.same)
}

// chains are the chains that there are, in a fixed order.
func (f *Firewall) chains() []firewallChain {
	if f == nil {
		return nil
	}
	var list []firewallChain
	if f.Base != "" {
		list = append(list, firewallChain{inputChain, FirewallChain{f.Base, f.Rules}})
	}
	if f.Forward != nil {
		list = append(list, firewallChain{forwardChain, *f.Forward})
	}
	if f.Masquerade != nil {
		list = append(list, firewallChain{masqueradeChain, *f.Masquerade})
	}
	return list
}

// chain returns the chain of the name, nil where there is none.
func (f *Firewall) chain(name string) *firewallChain {
	for _, c := range f.chains() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

// put sets the chain of the name.
func (f *Firewall) put(name string, c FirewallChain) {
	switch name {
	case inputChain:
		f.Base, f.Rules = c.Base, c.Rules
	case forwardChain:
		f.Forward = &c
	case masqueradeChain:
		f.Masquerade = &c
	}
}

// pure tells whether all that is in the table is what nodeagent makes.
func (f *Firewall) pure() bool {
	if len(f.Other) > 0 {
		return false
	}
	for _, c := range f.chains() {
		if c.Base != c.wantBase() || slices.ContainsFunc(c.Rules, func(r FirewallRule) bool { return r.Other != "" }) {
			return false
		}
	}
	return true
}

// The names of the table's chains.
const (
	inputChain      = "input"
	forwardChain    = "forward"
	masqueradeChain = "postrouting"
)

// String lists the rules, one a line with its name in front.
func (f *Firewall) String() string {
	if f == nil {
		return ""
	}
	var lines []string
	for _, c := range f.chains() {
		title := c.Base
		if c.name != inputChain {
			title = c.name + ": " + c.Base
		}
		lines = append(lines, title)
		for _, r := range c.Rules {
			lines = append(lines, r.Name+": "+r.String())
		}
	}
	return strings.Join(append(lines, f.Other...), "\n")
}
