package hosts

import (
	"net/netip"
	"slices"
)

// checkFloating checks the addresses that hosts take turns to hold.
func (l *loader) checkFloating(f facts) {
	floating := l.cluster.get("network.floating")
	first := map[netip.Addr]*node{}
	for _, name := range floating.names() {
		n := floating.table[name]
		if n.bad {
			continue
		}
		for _, key := range []string{"address", "interface", "hosts"} {
			if n.get(key) == nil {
				l.missing(n.file, n, n.path+"."+key, "is missing: a floating address is one that several hosts take turns to hold on a link")
			}
		}
		l.checkFloatingAddress(n, first)
		l.checkHolders(n, f)
	}
}

func (l *loader) checkFloatingAddress(n *node, first map[netip.Addr]*node) {
	at := n.get("address")
	p := parsed[netip.Prefix](at)
	if at == nil || at.bad || !p.IsValid() {
		return
	}
	if other := first[p.Addr()]; other != nil {
		l.at(at, "%s is a floating address already: at %s", p.Addr(), other.place())
		return
	}
	first[p.Addr()] = at
	for _, d := range l.hosts {
		for _, h := range d.held() {
			if h.addr == p.Addr() {
				l.at(at, "%s is an address that the host %q holds all the time: at %s", p.Addr(), d.spec.Name, h.node.place())
				return
			}
		}
	}
	// The network around it is the link's, so only the address counts.
	for _, r := range l.hosts[0].clusterRanges() {
		if r.prefix.Contains(p.Addr()) {
			l.at(at, "%s is within %s %s (%s)", p.Addr(), r.path, r.prefix, r.node.place())
			return
		}
	}
}

func (l *loader) checkHolders(n *node, f facts) {
	list := n.get("hosts")
	if list == nil || list.bad {
		return
	}
	if len(list.list) == 0 {
		l.at(list, "is empty: name the hosts that may hold the address")
		return
	}
	var holders []*draft
	for _, item := range list.list {
		name := parsed[string](item)
		if item.bad || name == "" {
			continue
		}
		i := slices.IndexFunc(l.hosts, func(d *draft) bool { return d.spec.Name == name })
		switch {
		case i < 0:
			l.at(item, "%s is not a host of the fleet%s", quote(name), didYouMean(name, f.names()))
		case slices.Contains(holders, l.hosts[i]):
			l.at(item, "%s is there twice", quote(name))
		case f.rolesKnown && !l.hosts[i].spec.Has(RoleEtcd) && !l.hosts[i].spec.Has(RoleControlPlane):
			l.at(item, "%s cannot hold the address: it is claimed through a lease in etcd, and only hosts with the role %q or %q have a certificate that etcd takes", quote(name), RoleEtcd, RoleControlPlane)
		default:
			holders = append(holders, l.hosts[i])
			l.checkHolder(n, l.hosts[i])
		}
	}
	if len(list.list) == 1 && !list.broken() {
		l.warn(list.file, list, list.path, "one host alone may hold the address, so it cannot move: name another, or write it as an address of the host's link")
	}
}

func (l *loader) checkHolder(n *node, d *draft) {
	at := n.get("interface")
	name := parsed[string](at)
	if at == nil || at.bad {
		return
	}
	w := d.spec.Network.WireGuard
	switch link := d.link(name); {
	case w != nil && name == w.Interface:
		l.at(at, "is the WireGuard device: the mesh sends an address to the one host that has it in its file")
	case link == nil:
		l.at(at, "%s is not a link of the host %q: write [network.link.%s] in %s%s", quote(name), d.spec.Name, name, d.file, didYouMean(name, d.linkNames()))
	case link.Master != "" && d.link(link.Master) != nil && d.link(link.Master).Kind != LinkVRF:
		l.at(at, "is a port of %s on the host %q, so addresses belong on that", quote(link.Master), d.spec.Name)
	}
}

// checkNames checks the host's names and resolvers.
func (d *draft) checkNames(f facts) {
	dns := d.tree.get("network.dns")
	servers := d.tree.get("network.dns.servers")
	if servers == nil || len(servers.list) == 0 && !servers.bad {
		for _, key := range []string{"search", "options"} {
			if at := dns.get(key); at != nil && !at.bad {
				d.at(at, "has no effect without servers: the host's resolv.conf is left alone")
			}
		}
	} else if len(d.spec.Names.Servers) > maxServers {
		d.warn(d.file, servers, servers.path, "are %d, and resolvers ask the first %d only", len(d.spec.Names.Servers), maxServers)
	}
	written := d.tree.get("network.hosts")
	type family struct {
		name string
		six  bool
	}
	first := map[family]*node{}
	for _, text := range written.names() {
		n := written.table[text]
		address, err := parseAddr(text)
		if err != nil || n.bad {
			continue
		}
		if n.list != nil && len(n.list) == 0 {
			d.at(n, "is empty: an entry has at least one name")
		}
		for _, item := range n.list {
			name := parsed[string](item)
			id := family{name, address.Is6()}
			switch other := first[id]; {
			case item.bad || name == "":
			case other != nil && other != n:
				d.at(item, "%s is the name of %s already, and the first entry wins: at %s", quote(name), other.path, other.place())
			case value[bool](d, "network.hosts_file") && slices.Contains(f.names(), name) && !d.isAddressOf(f, name, address):
				d.at(item, "%s is a host of the fleet, whose entry network.hosts_file writes", quote(name))
			default:
				first[id] = n
			}
		}
	}
}

// maxServers is how many resolvers glibc asks (MAXNS of resolv.h).
const maxServers = 3

func (d *draft) isAddressOf(f facts, name string, a netip.Addr) bool {
	return slices.ContainsFunc(f.all, func(o *draft) bool { return o.spec.Name == name && o.spec.Address == a })
}

// checkProbes refuses probes that the fleet has nothing for.
func (d *draft) checkProbes(f facts) {
	list := d.tree.get("network.probes.names")
	if list == nil || list.bad {
		return
	}
	for _, item := range list.list {
		switch name := parsed[string](item); {
		case item.bad:
		case name == probeWireGuard && !d.has("network.wireguard"):
			d.at(item, "the fleet has no WireGuard network to probe: write [network.wireguard] in %s", clusterTOML)
		case name == probeVault && d.spec.PKI.Issuer != issuerVault && d.ok("pki.issuer"):
			d.at(item, "the fleet has no Vault to probe: pki.issuer is not %q", issuerVault)
		case name == probeEtcd && f.rolesKnown && len(f.members) == 0:
			d.at(item, "the fleet has no host with the role %q to probe", RoleEtcd)
		case name == probeAPI && f.rolesKnown && len(f.controlPlanes) == 0:
			d.at(item, "the fleet has no host with the role %q to probe", RoleControlPlane)
		}
	}
}
