package hosts

import (
	"net/netip"
	"slices"
)

// derive fills in what a host takes from the others' files.
func (d *draft) derive(all []*draft) {
	for _, other := range all {
		if other != d {
			d.spec.Peers = append(d.spec.Peers, other.asPeer())
		}
	}
	d.deriveFirewall()
}

// asPeer is what the other hosts need to know of this one.
func (d *draft) asPeer() Peer {
	p := Peer{
		Name:     d.spec.Name,
		Roles:    slices.Clone(d.spec.Roles),
		Address:  d.spec.Address,
		PodRange: d.spec.Kubernetes.HostPodRange,
	}
	if w := d.spec.Network.WireGuard; w != nil {
		p.WireGuard = &WireGuardPeer{
			Address:   w.Address.Addr(),
			PublicKey: w.PublicKey,
			Endpoint:  value[string](d, "wireguard.endpoint"),
		}
	}
	return p
}

// deriveFirewall replaces the words of each rule's sources by ranges. A rule
// whose sources turn out to be nobody (the fleet of a single host) opens
// nothing and is dropped: no source at all would mean anybody.
func (d *draft) deriveFirewall() {
	rules := d.tree.get("firewall.allow")
	var kept []Allow
	for _, rule := range d.spec.Firewall.Allow {
		from := rules.table[rule.Name].get("from")
		prefixes, anybody := d.resolve(values[source](from))
		if from != nil && !anybody && len(prefixes) == 0 {
			continue
		}
		rule.From = prefixes
		kept = append(kept, rule)
	}
	d.spec.Firewall.Allow = kept
	d.allowWireGuard()
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
		default:
			prefixes = append(prefixes, s.prefix)
		}
	}
	slices.SortFunc(prefixes, comparePrefixes)
	return slices.Compact(prefixes), len(sources) == 0
}

// fleetPrefixes are the other hosts' node and mesh addresses: packets come from
// either, by the route that they take.
func (d *draft) fleetPrefixes() []netip.Prefix {
	var addrs []netip.Addr
	for _, p := range d.spec.Peers {
		addrs = append(addrs, p.Address)
		if p.WireGuard != nil {
			addrs = append(addrs, p.WireGuard.Address)
		}
	}
	var prefixes []netip.Prefix
	for _, a := range sortedAddrs(addrs) {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
