package hosts

import (
	"net/netip"
	"slices"
)

// carried is one client of the mesh and the host that carries it.
type carried struct {
	hub  *draft
	name string
	node *node
}

// clients are all clients of the mesh, by hub and name.
func (l *loader) clients() []carried {
	var all []carried
	for _, d := range l.hosts {
		clients := d.tree.get("wireguard.client")
		for _, name := range clients.names() {
			if n := clients.table[name]; !n.bad {
				all = append(all, carried{d, name, n})
			}
		}
	}
	return all
}

// checkClients checks the clients of all hubs against hosts and each other.
func (l *loader) checkClients() {
	all := l.clients()
	for i, c := range all {
		for _, key := range []string{"public_key", "addresses"} {
			if c.node.get(key) == nil {
				l.missing(c.node.file, c.node, c.node.path+"."+key, "is missing: the hub lets in a peer by its key and addresses")
			}
		}
		l.checkClientName(c, all[:i])
		l.checkClientKey(c, all[:i])
		l.checkClientAddresses(c, all[:i])
	}
}

// checkClientName keeps names apart that stand for a peer in files of preshared
// keys and in listings.
func (l *loader) checkClientName(c carried, earlier []carried) {
	for _, d := range l.hosts {
		if d.spec.Name == c.name {
			l.at(c.node, "%s is the name of a host", quote(c.name))
			return
		}
	}
	for _, e := range earlier {
		if e.name == c.name {
			l.at(c.node, "%s is a client already, of the host %q: at %s", quote(c.name), e.hub.spec.Name, e.node.place())
			return
		}
	}
}

// checkClientKey refuses a key twice among the peers of a host. One machine may
// be the client of several hubs, with other addresses at each.
func (l *loader) checkClientKey(c carried, earlier []carried) {
	at := c.node.get("public_key")
	key := parsed[string](at)
	if at == nil || at.bad || key == "" {
		return
	}
	for _, d := range l.hosts {
		if value[string](d, "wireguard.public_key") == key {
			l.at(at, "is the key of the host %q: at %s", d.spec.Name, d.tree.get("wireguard.public_key").place())
			return
		}
	}
	for _, e := range earlier {
		if e.hub == c.hub && parsed[string](e.node.get("public_key")) == key {
			l.at(at, "is that of another client of this host too: at %s", e.node.get("public_key").place())
			return
		}
	}
}

func (l *loader) checkClientAddresses(c carried, earlier []carried) {
	list := c.node.get("addresses")
	if list == nil || list.bad {
		return
	}
	if len(list.list) == 0 {
		l.at(list, "is empty: a client has at least one address")
		return
	}
	for i, item := range list.list {
		p := parsed[netip.Prefix](item)
		if item.bad || !p.IsValid() {
			continue
		}
		if !l.checkClientRange(c, item, p) {
			continue
		}
		others := earlier
		for _, own := range list.list[:i] {
			if q := parsed[netip.Prefix](own); q.IsValid() && q.Overlaps(p) {
				l.at(item, "%s overlaps %s (%s)", p, q, own.place())
			}
		}
		for _, e := range others {
			for _, theirs := range values[netip.Prefix](e.node.get("addresses")) {
				if theirs.Overlaps(p) && !item.bad {
					l.at(item, "%s overlaps %s of the client %q: at %s", p, theirs, e.name, e.node.get("addresses").place())
				}
			}
		}
	}
}

// checkClientRange compares one of a client's ranges with what the fleet has.
func (l *loader) checkClientRange(c carried, item *node, p netip.Prefix) bool {
	mesh := value[netip.Prefix](c.hub, "network.wireguard.range")
	switch {
	case mesh.IsValid() && mesh.Overlaps(p) && p.Bits() < mesh.Bits():
		l.at(item, "%s reaches beyond network.wireguard.range %s on both sides: a client's addresses are within it, or all outside", p, mesh)
		return false
	case mesh.IsValid() && mesh.Contains(p.Addr()) && isNetworkOrBroadcast(p.Addr(), mesh) && p.IsSingleIP():
		l.at(item, "%s is the first or last address of network.wireguard.range %s, which no host can have", p.Addr(), mesh)
		return false
	}
	for _, r := range c.hub.clusterRanges() {
		if r.path != "network.wireguard.range" && r.prefix.Overlaps(p) {
			l.at(item, "%s overlaps %s %s (%s)", p, r.path, r.prefix, r.node.place())
			return false
		}
	}
	for _, d := range l.hosts {
		for _, h := range d.held() {
			if p.Contains(h.addr) {
				l.at(item, "%s has in it %s, an address of the host %q: at %s", p, h.addr, d.spec.Name, h.node.place())
				return false
			}
		}
		for _, link := range d.spec.Network.Links {
			for _, w := range linkAddresses(d.linkNode(link.Name)) {
				if w.prefix.Masked().Overlaps(p) {
					l.at(item, "%s overlaps %s, the network of %s on the host %q (%s), which would look for it there", p, w.prefix.Masked(), quote(link.Name), d.spec.Name, w.at.place())
					return false
				}
			}
		}
	}
	return true
}

// checkTunnels refuses endpoints that are reached through the tunnel that they
// are the end of.
func (l *loader) checkTunnels() {
	clients := l.clients()
	for _, d := range l.hosts {
		n, endpoint := d.endpoint()
		if n == nil || n.bad || !endpoint.IsValid() {
			continue
		}
		for _, c := range clients {
			for _, p := range values[netip.Prefix](c.node.get("addresses")) {
				if p.Contains(endpoint) && !n.bad {
					l.at(n, "%s is reached through its own tunnel: it is within %s of the client %q (%s)", endpoint, p, c.name, c.node.get("addresses").place())
				}
			}
		}
		if pods := value[netip.Prefix](d, "kubernetes.pod_range"); pods.IsValid() && pods.Contains(endpoint) && !n.bad {
			l.at(n, "%s is reached through its own tunnel: it is within kubernetes.pod_range %s", endpoint, pods)
		}
		for _, from := range l.hosts {
			if from != d && !n.bad {
				from.checkWayTo(d, endpoint)
			}
		}
	}
}

// reached is where a host is reached from outside.
type reached struct {
	node *node
	addr netip.Addr // invalid where that is a DNS name
}

func (d *draft) endpoint() (*node, netip.Addr) {
	if d.outside == nil {
		a, _ := netip.ParseAddr(endpointHost(value[string](d, "wireguard.endpoint")))
		d.outside = &reached{d.tree.get("wireguard.endpoint"), a}
	}
	return d.outside.node, d.outside.addr
}

// checkWayTo looks at the route that the spec has towards another host's
// endpoint.
func (d *draft) checkWayTo(other *draft, endpoint netip.Addr) {
	w := d.spec.Network.WireGuard
	route, i := d.routeTo(endpoint)
	if w == nil || route == nil || !w.Address.IsValid() {
		return
	}
	through := func(via netip.Addr, device string) bool {
		return device == w.Interface || via.IsValid() && w.Address.Masked().Contains(via)
	}
	inside := through(route.Via, route.Device) ||
		slices.ContainsFunc(route.Nexthops, func(hop Nexthop) bool { return through(hop.Via, hop.Device) })
	if n := d.items("network.route")[i]; inside && !n.bad {
		d.at(n, "leads to %s, the endpoint of the host %q, through its own tunnel: give that endpoint a route of its own", endpoint, other.spec.Name)
	}
}

// routeTo is the most specific route of the main table to an address, nil where
// a link's own network is more specific, or nothing leads there.
func (d *draft) routeTo(a netip.Addr) (best *Route, index int) {
	longest := -1
	for _, l := range d.spec.Network.Links {
		for _, own := range l.Addresses {
			if own.Prefix.Contains(a) {
				longest = max(longest, own.Prefix.Bits())
			}
		}
	}
	for i, r := range d.spec.Network.Routes {
		if r.Table == 0 && r.Destination.IsValid() && r.Destination.Contains(a) && r.Destination.Bits() > longest {
			best, index, longest = &d.spec.Network.Routes[i], i, r.Destination.Bits()
		}
	}
	return best, index
}
