package hosts

import "slices"

// linkNames are the links that the host is known to have: those of its spec,
// the other ends of veths, and the WireGuard device.
func (d *draft) linkNames() []string {
	var names []string
	for _, l := range d.spec.Network.Links {
		names = append(names, l.Name)
		if l.Peer != "" {
			names = append(names, l.Peer)
		}
	}
	if w := d.spec.Network.WireGuard; w != nil {
		names = append(names, w.Interface)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (d *draft) knowsLink(name string) bool {
	return name == "lo" || slices.Contains(d.linkNames(), name)
}

// checkKnownLink reports a name that is no link of the host.
func (d *draft) checkKnownLink(at *node, name string) bool {
	if name == "" || d.knowsLink(name) {
		return true
	}
	d.at(at, "%s is not a link of this host: write [network.link.%s], which names a physical link by default%s", quote(name), name, didYouMean(name, d.linkNames()))
	return false
}

func (d *draft) link(name string) *Link {
	for i, l := range d.spec.Network.Links {
		if l.Name == name {
			return &d.spec.Network.Links[i]
		}
	}
	return nil
}

// kindKnown tells whether a link's kind is written well, or by default.
func (d *draft) kindKnown(name string) bool {
	n := d.linkNode(name)
	return n == nil || !n.bad && !n.get("kind").broken()
}

// linkNode is the table of a link, nil where the spec has none.
func (d *draft) linkNode(name string) *node {
	links := d.tree.get("network.link")
	if links == nil {
		return nil
	}
	return links.table[name]
}

func (d *draft) checkLinks() {
	links := d.tree.get("network.link")
	for _, l := range d.spec.Network.Links {
		n := links.table[l.Name]
		if n.bad {
			continue
		}
		if w := d.spec.Network.WireGuard; w != nil && w.Interface == l.Name {
			d.at(n, "%s is the name of the WireGuard device (%s)", quote(l.Name), d.origin("network.wireguard.interface"))
			continue
		}
		d.checkMatch(n, l)
		d.checkMaster(n, l)
		d.checkParent(n, l)
		d.checkVeth(n, l)
		d.checkSettings(n, l)
		d.checkLinkAddresses(n, l)
		d.checkMTU(n, l)
	}
	d.checkRings()
	d.checkSharedNames()
}

// checkMatch checks how a physical link is found.
func (d *draft) checkMatch(n *node, l Link) {
	if !d.kindKnown(l.Name) {
		return
	}
	mac, place := n.get("match_mac"), n.get("match_path")
	at := mac
	if at == nil {
		at = place
	}
	switch {
	case n.get("adopt") != nil && !n.get("adopt").bad && l.Kind == LinkPhysical:
		d.at(n.get("adopt"), "has no effect: a physical link is used as it is, never made")
	case at == nil || at.bad:
	case l.Kind != LinkPhysical:
		d.at(at, "finds a physical link, and this link is a %s, which nodeagent makes", l.Kind)
	case mac != nil && place != nil && !place.bad:
		d.at(place, "match_mac finds the link already (%s): keep one of them", mac.place())
	}
	for _, other := range d.spec.Network.Links {
		if other.Name < l.Name && at != nil && !at.bad && other.Match == l.Match {
			d.at(at, "finds the link %s too (%s)", quote(other.Name), d.linkNode(other.Name).place())
		}
	}
}

func (d *draft) checkMaster(n *node, l Link) {
	at := n.get("master")
	if l.Master == "" {
		return
	}
	master := d.link(l.Master)
	switch {
	case l.Master == l.Name:
		d.at(at, "a link cannot be its own master")
	case master == nil:
		d.at(at, "%s is not a link of this host: write [network.link.%s] with kind = \"bridge\", \"bond\" or \"vrf\"%s", quote(l.Master), l.Master, didYouMean(l.Master, d.linkNames()))
	case !d.kindKnown(l.Master) || !d.kindKnown(l.Name):
	case master.Kind != LinkBridge && master.Kind != LinkBond && master.Kind != LinkVRF:
		d.at(at, "%s is a %s link, and only a bridge, a bond or a vrf has ports", quote(l.Master), master.Kind)
	case l.Kind == LinkVRF:
		d.at(at, "a vrf cannot be the port of another link")
	case l.Kind == master.Kind:
		d.at(at, "a %s cannot be the port of another %s", l.Kind, l.Kind)
	case len(l.Addresses) > 0 && master.Kind != LinkVRF:
		where := n.get("addresses")
		if where == nil || len(where.list) == 0 {
			where = n.get("address")
		}
		d.at(where, "the link is a port of %s, so its addresses belong on that %s", quote(l.Master), master.Kind)
	}
}

// needsParent are the kinds that lie upon another link; a VXLAN may.
func needsParent(kind LinkKind) bool { return kind == LinkVLAN || kind == LinkMacvlan }

func (d *draft) checkParent(n *node, l Link) {
	if !d.kindKnown(l.Name) {
		return
	}
	at := n.get("parent")
	w := d.spec.Network.WireGuard
	switch {
	case at == nil && needsParent(l.Kind):
		d.missing(n.file, n, n.path+".parent", "is missing: a %s lies upon another link", l.Kind)
	case at == nil || at.bad:
	case !needsParent(l.Kind) && l.Kind != LinkVXLAN:
		d.at(at, "only a vlan, a macvlan or a vxlan has a parent, and this link is %s", l.Kind)
	case l.Parent == l.Name:
		d.at(at, "a link cannot be its own parent")
	case !d.checkKnownLink(at, l.Parent):
	case needsParent(l.Kind) && (l.Parent == "lo" || w != nil && l.Parent == w.Interface):
		d.at(at, "%s carries no Ethernet frames, which a %s needs", quote(l.Parent), l.Kind)
	}
}

// checkSharedNames looks for alternative names that another link has.
func (d *draft) checkSharedNames() {
	links := d.tree.get("network.link")
	taken := map[string]string{}
	for _, name := range d.linkNames() {
		taken[name] = name
	}
	for _, l := range d.spec.Network.Links {
		at := links.table[l.Name].get("alt_names")
		for _, name := range l.AltNames {
			if owner, ok := taken[name]; ok && !at.bad {
				d.at(at, "%s is a name of the link %s already", quote(name), quote(owner))
			}
			taken[name] = l.Name
		}
	}
}

func (d *draft) checkVeth(n *node, l Link) {
	if !d.kindKnown(l.Name) {
		return
	}
	at := n.get("peer")
	if l.Kind != LinkVeth {
		if at != nil && !at.bad {
			d.at(at, "only a veth has a peer, and this link is %s", l.Kind)
		}
		return
	}
	var named []string // by whom this link is named as the other end
	for _, other := range d.spec.Network.Links {
		if other.Peer == l.Name && other.Name != l.Name {
			named = append(named, other.Name)
		}
	}
	switch {
	case at == nil && len(named) == 0:
		d.missing(n.file, n, n.path+".peer", "is missing: a veth has another end")
	case at == nil || at.bad:
	case l.Peer == l.Name:
		d.at(at, "a link cannot be its own other end")
	case len(named) > 0 && named[0] != l.Peer:
		d.at(at, "is %s, but %s names this link as its other end", quote(l.Peer), quote(named[0]))
	default:
		d.checkOtherEnd(at, l)
	}
}

func (d *draft) checkOtherEnd(at *node, l Link) {
	peer := d.link(l.Peer)
	if peer != nil && peer.Kind != LinkVeth && d.kindKnown(l.Peer) {
		d.at(at, "%s is a %s link: the other end of a veth is a veth", quote(l.Peer), peer.Kind)
		return
	}
	for _, other := range d.spec.Network.Links {
		if other.Peer == l.Peer && other.Name < l.Name {
			d.at(at, "%s is the other end of %s already", quote(l.Peer), quote(other.Name))
			return
		}
	}
}

// checkMTU compares a link's MTU with that of the link that carries it.
func (d *draft) checkMTU(n *node, l Link) {
	below, at := d.link(l.Parent), n.get("mtu")
	if at == nil || at.bad || below == nil || below.MTU == 0 || below.Name == l.Name {
		return
	}
	switch {
	case needsParent(l.Kind) && l.MTU > below.MTU:
		// The kernel refuses it (net/8021q/vlan_dev.c, drivers/net/macvlan.c).
		d.at(at, "%d is more than the %d of its parent %s (%s)", l.MTU, below.MTU, quote(below.Name), d.linkNode(below.Name).get("mtu").place())
	case l.Kind == LinkVXLAN && l.MTU > below.MTU-vxlanOverhead(l):
		d.warn(d.file, at, at.path, "%d and the %d bytes of VXLAN are more than the %d of its parent %s: packets would be cut up or lost", l.MTU, vxlanOverhead(l), below.MTU, quote(below.Name))
	}
}

// vxlanOverhead is what the outer IP, UDP, VXLAN and inner Ethernet headers
// take (RFC 7348, 5).
func vxlanOverhead(l Link) int {
	if v := l.VXLAN; v != nil && (v.Local.Is6() || v.Remote.Is6()) {
		return encapsulationOverhead + 20
	}
	return encapsulationOverhead
}
