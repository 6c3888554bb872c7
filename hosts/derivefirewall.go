package hosts

import (
	"net/netip"
	"slices"
	"strings"
)

// deriveFirewall replaces the words of each rule's sources by ranges. A rule
// whose sources turn out to be nobody (the fleet of a single host) opens
// nothing and is dropped: no source at all would mean anybody.
func (d *draft) deriveFirewall() {
	f := &d.spec.Firewall
	rules := d.tree.get("firewall.allow")
	f.Allow = kept(f.Allow, func(rule *Allow) (anybody bool) {
		rule.From, anybody = d.ranges(rules.table[rule.Name].get("from"))
		return anybody
	})
	d.deriveForward()
	d.deriveMasquerade()
	d.allowWireGuard()
}

func (d *draft) deriveForward() {
	f := d.spec.Firewall.Forward
	if f == nil {
		return
	}
	rules := d.tree.get("firewall.forward")
	f.Allow = kept(f.Allow, func(rule *ForwardAllow) bool {
		n := rules.table[rule.Name]
		var from, to bool
		rule.From, from = d.ranges(n.get("from"))
		rule.To, to = d.ranges(n.get("to"))
		return from && to
	})
}

// podsMasquerade is the name of the masquerade that workers have by default.
const podsMasquerade = "pods"

// deriveMasquerade adds that of pods, unless one of its name says otherwise.
func (d *draft) deriveMasquerade() {
	f := &d.spec.Firewall
	rules := d.tree.get("firewall.masquerade")
	f.Masquerade = kept(f.Masquerade, func(rule *Masquerade) (anybody bool) {
		n := rules.table[rule.Name]
		rule.Except, _ = d.ranges(n.get("except"))
		rule.From, anybody = d.ranges(n.get("from"))
		return anybody
	})
	pods := d.spec.Kubernetes.PodRange
	if !d.ownsPodRange() || !pods.IsValid() || rules != nil && rules.table[podsMasquerade] != nil {
		return
	}
	f.Masquerade = append(f.Masquerade, Masquerade{Name: podsMasquerade, From: []netip.Prefix{pods}, Except: d.knowsPods(pods)})
	slices.SortFunc(f.Masquerade, func(a, b Masquerade) int { return strings.Compare(a.Name, b.Name) })
}

// knowsPods are the destinations, of the pods' family, that know the way to
// pods and so may see their true addresses: pods, the mesh and what is reached
// through it, and the fleet's hosts.
func (d *draft) knowsPods(pods netip.Prefix) []netip.Prefix {
	except := append(d.fleetPrefixes(), d.clientPrefixes()...)
	except = append(except, pods, value[netip.Prefix](d, "network.wireguard.range"), netip.PrefixFrom(d.spec.Address, d.spec.Address.BitLen()))
	except = slices.DeleteFunc(except, func(p netip.Prefix) bool { return !p.IsValid() || p.Addr().Is4() != pods.Addr().Is4() })
	return outermost(except)
}

// outermost sorts ranges and drops those that lie within another.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for _, p := range sortedPrefixes(prefixes) {
		// Sorted, a range comes right after those that contain it.
		if n := len(kept); n > 0 && kept[n-1].Contains(p.Addr()) {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// allowWireGuard opens the mesh's own port, without which a firewall would cut
// the fleet apart, unless a rule of the name "wireguard" says otherwise.
// Packets of strangers are dropped by WireGuard itself.
func (d *draft) allowWireGuard() {
	w := d.spec.Network.WireGuard
	if w == nil || !d.spec.Firewall.Enabled {
		return
	}
	if n := d.tree.get("firewall.allow"); n != nil && n.table[fromWireGuard] != nil {
		return
	}
	d.spec.Firewall.Allow = append(d.spec.Firewall.Allow, Allow{Name: fromWireGuard, Protocol: "udp", Ports: []uint16{uint16(w.Port)}})
}

// kept completes rules and drops those that are for nobody.
func kept[T any](rules []T, complete func(*T) bool) []T {
	var some []T
	for i := range rules {
		if complete(&rules[i]) {
			some = append(some, rules[i])
		}
	}
	return some
}

// ranges are those of sources as they are written; ok is false where some are
// written and turn out to be nobody.
func (d *draft) ranges(n *node) (prefixes []netip.Prefix, ok bool) {
	prefixes, anybody := d.resolve(values[source](n))
	return prefixes, n == nil || anybody || len(prefixes) > 0
}

// resolve turns sources into ranges, sorted; anybody is true for "any".
func (d *draft) resolve(sources []source) (prefixes []netip.Prefix, anybody bool) {
	for _, s := range sources {
		switch s.word {
		case fromAny:
			return nil, true
		case fromFleet:
			prefixes = append(prefixes, d.fleetPrefixes()...)
		case fromPods:
			prefixes = append(prefixes, d.spec.Kubernetes.PodRange)
		case fromWireGuard:
			prefixes = append(prefixes, value[netip.Prefix](d, "network.wireguard.range"))
		case fromClients:
			prefixes = append(prefixes, d.clientPrefixes()...)
		case fromHost:
			prefixes = append(prefixes, d.hostPrefixes(s.host)...)
		default:
			prefixes = append(prefixes, s.prefix)
		}
	}
	return sortedPrefixes(prefixes), len(sources) == 0
}

// single makes ranges of one address each, sorted and once.
func single(addrs []netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, a := range sortedAddrs(addrs) {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}
