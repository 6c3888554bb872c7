package hosts

import (
	"net/netip"
	"slices"
)

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

func (d *draft) link(name string) *Link {
	for i, l := range d.spec.Network.Links {
		if l.Name == name {
			return &d.spec.Network.Links[i]
		}
	}
	return nil
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
		d.checkMaster(n, l)
		d.checkVeth(n, l)
		d.checkLinkAddresses(n, l)
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
		d.at(at, "%s is not a link of this host: write [network.link.%s] with kind = \"bridge\"%s", quote(l.Master), l.Master, didYouMean(l.Master, d.linkNames()))
	case master.Kind != LinkBridge && d.ok("network.link."+l.Master+".kind"):
		d.at(at, "%s is a %s link, and only a bridge has ports", quote(l.Master), master.Kind)
	case l.Kind == LinkBridge:
		d.at(at, "a bridge cannot be the port of another bridge")
	case len(l.Addresses) > 0:
		d.at(n.get("addresses"), "the link is a port of %s, so its addresses belong on that bridge", quote(l.Master))
	}
}

func (d *draft) checkVeth(n *node, l Link) {
	if !d.ok("network.link." + l.Name + ".kind") {
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
	if peer != nil && peer.Kind != LinkVeth && d.ok("network.link."+l.Peer+".kind") {
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

func (d *draft) checkLinkAddresses(n *node, l Link) {
	if n.get("addresses") == nil || n.get("addresses").bad {
		return
	}
	mtu := n.get("mtu")
	for _, at := range n.get("addresses").list {
		p := parsed[netip.Prefix](at)
		if at.bad || !p.IsValid() {
			continue
		}
		if p.Addr().Is6() && l.MTU > 0 && l.MTU < minIPv6MTU && !mtu.bad {
			d.at(mtu, "%d is too small for the link's IPv6 address: at least %d", l.MTU, minIPv6MTU)
		}
		if isNetworkOrBroadcast(p.Addr(), p) {
			d.at(at, "%s is the first or last address of its network, which no host can have", p)
			continue
		}
		for _, r := range d.clusterRanges() {
			if r.prefix.Overlaps(p.Masked()) {
				d.at(at, "%s overlaps %s %s (%s)", p, r.path, r.prefix, r.node.place())
				break
			}
		}
	}
}

// ownAddresses are the host's addresses that the fleet knows of.
func (d *draft) ownAddresses() []netip.Addr {
	var own []netip.Addr
	for _, h := range d.held() {
		own = append(own, h.addr)
	}
	return own
}
