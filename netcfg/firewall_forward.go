package netcfg

import (
	"net/netip"

	"github.com/nodeagent/nodeagent/hosts"
)

// forwardRules are for packets that the host passes on, once the spec has a
// policy for them: replies and the errors that path MTU discovery needs, what
// Kubernetes needs of pods and Services on a worker, and what the spec allows:
// what a hub's clients may reach is for it alone to say. Neighbour discovery is
// never forwarded.
//
// New connections to pods are accepted from within the cluster: from pods, from
// the fleet's hosts, from its mesh. Who else is to reach a pod comes by a
// Service, whose destination was rewritten on the way (ct status dnat); a pod's
// own address is for the spec to open.
func forwardRules(spec *hosts.Spec) []FirewallRule {
	rules := []FirewallRule{
		{Name: "replies", States: []string{"established", "related"}},
		{Name: "icmp errors", Protocol: "icmp", Types: []uint8{3, 11, 12}},
		{Name: "icmpv6 errors", Protocol: "icmpv6", Types: []uint8{1, 2, 3, 4}},
	}
	if pods := spec.Kubernetes.PodRange; pods.IsValid() && spec.Has(hosts.RoleWorker) {
		inside := append(fleet(spec), pods)
		if mesh := spec.Network.WireGuard; mesh != nil {
			inside = append(inside, mesh.Address.Masked())
		}
		rules = append(rules, FirewallRule{Name: "services", DNAT: true})
		rules = append(rules, byFamily(FirewallRule{Name: "from pods", From: []netip.Prefix{pods}})...)
		rules = append(rules, byFamily(FirewallRule{Name: "to pods", From: inside, To: []netip.Prefix{pods}})...)
	}
	for _, allow := range spec.Firewall.Forward.Allow {
		rules = append(rules, forwardAllow(allow)...)
	}
	return rules
}

// forwardAllow is one rule of the spec; ports without a protocol are those of
// TCP and of UDP.
func forwardAllow(allow hosts.ForwardAllow) []FirewallRule {
	protocols := []string{allow.Protocol}
	if allow.Protocol == "" && len(allow.Ports) > 0 {
		protocols = []string{"tcp", "udp"}
	}
	var rules []FirewallRule
	for _, protocol := range protocols {
		rules = append(rules, byFamily(FirewallRule{
			Name: allow.Name, Protocol: protocol, Ports: portRanges(allow.Ports), From: allow.From, To: allow.To,
			Interfaces: sorted(allow.Inbound), Outbound: sorted(allow.Outbound),
		})...)
	}
	return rules
}

func masqueradeRules(list []hosts.Masquerade) []FirewallRule {
	var rules []FirewallRule
	for _, m := range list {
		rules = append(rules, byFamily(FirewallRule{
			Name: m.Name, From: m.From, NotTo: m.Except, Outbound: sorted(m.Outbound), Masquerade: true,
		})...)
	}
	return rules
}

// byFamily returns the rule with its ranges in the shape that FirewallRule
// wants: as two rules where they are of both families, as none where they leave
// nothing to match.
func byFamily(r FirewallRule) []FirewallRule {
	perSource := r.Limit != nil && r.Limit.BySource // its key is an address
	if len(r.From) == 0 && len(r.To) == 0 && len(r.NotTo) == 0 && !perSource {
		return []FirewallRule{r}
	}
	var rules []FirewallRule
	plain := 0
	for _, four := range []bool{true, false} {
		from, to, not := ofFamily(r.From, four), ofFamily(r.To, four), ofFamily(r.NotTo, four)
		if len(r.From) > 0 && len(from) == 0 || len(r.To) > 0 && len(to) == 0 || isEverything(not) {
			continue
		}
		if isEverything(from) {
			from = nil
		}
		if isEverything(to) {
			to = nil
		}
		if len(from) == 0 && len(to) == 0 && len(not) == 0 {
			from = []netip.Prefix{everything(four)}
			plain++
		}
		one := r
		one.From, one.To, one.NotTo = from, to, not
		if len(rules) > 0 {
			one.Name += sixSuffix
		}
		rules = append(rules, one)
	}
	if plain == 2 && !perSource {
		r.From, r.To, r.NotTo = nil, nil, nil
		return []FirewallRule{r}
	}
	return rules
}

// ofFamily returns the ranges of the family: the fewest prefixes, sorted.
func ofFamily(list []netip.Prefix, four bool) []netip.Prefix {
	own := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if p.Addr().Is4() == four {
			own = append(own, p)
		}
	}
	return prefixes(addrRanges(own))
}

func everything(four bool) netip.Prefix {
	if four {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func isEverything(list []netip.Prefix) bool { return len(list) == 1 && list[0].Bits() == 0 }
