package hosts

import (
	"net/netip"
	"slices"
)

// heldAddress is an address of a host and where it is written.
type heldAddress struct {
	addr netip.Addr
	node *node
	link bool // on a link, as opposed to the node address and the mesh's
}

// held returns the addresses that a host holds: its node address, the one in
// the WireGuard mesh, and those of its links.
func (d *draft) held() []heldAddress {
	if d.addresses != nil {
		return d.addresses
	}
	d.addresses = []heldAddress{}
	for _, path := range []string{"host.address", "wireguard.address"} {
		if a := value[netip.Addr](d, path); a.IsValid() {
			d.addresses = append(d.addresses, heldAddress{addr: a, node: d.tree.get(path)})
		}
	}
	links := d.tree.get("network.link")
	for _, name := range links.names() {
		for _, w := range linkAddresses(links.table[name]) {
			d.addresses = append(d.addresses, heldAddress{addr: w.prefix.Addr(), node: w.at, link: true})
		}
	}
	return d.addresses
}

// checkFleet checks the hosts against one another.
func (l *loader) checkFleet(f facts) {
	l.checkRoles(f)
	l.checkDuplicateAddresses()
	l.checkPodRanges()
	l.checkKeys()
	l.checkSnapshotKeys()
	l.checkReachable()
	l.checkClients()
	l.checkTunnels()
	l.checkFloating(f)
}

// checkRoles looks for roles that make no sense together.
func (l *loader) checkRoles(f facts) {
	if !f.rolesKnown {
		return
	}
	switch {
	case len(f.controlPlanes) == 0 && len(f.workers) > 0:
		l.at(f.workers[0].tree.get("host.roles"), "the fleet has workers but no host with the role %q", RoleControlPlane)
	case len(f.controlPlanes) > 0 && len(f.members) == 0:
		l.at(f.controlPlanes[0].tree.get("host.roles"), "the fleet has a control plane but no host with the role %q", RoleEtcd)
	}
	switch n := len(f.members); {
	case n > 0 && n%2 == 0:
		l.warn(clusterTOML, nil, "host.roles", "the fleet has %d etcd members: an even number bears no more failures than %d, and one more vote is needed", n, n-1)
	case n > 7:
		l.warn(clusterTOML, nil, "host.roles", "the fleet has %d etcd members: every write waits for a majority, so more than 7 make it slower and no safer", n)
	}
}

func (l *loader) checkDuplicateAddresses() {
	first := map[netip.Addr]heldAddress{}
	owner := map[netip.Addr]*draft{}
	for _, d := range l.hosts {
		onLink := map[netip.Addr]*node{}
		for _, h := range d.held() {
			// The node address is that of a link or of the mesh, so within a
			// host only links are compared.
			if other := onLink[h.addr]; h.link && other != nil {
				l.at(h.node, "%s is on the host twice: also at %s", h.addr, other.place())
				continue
			}
			if h.link {
				onLink[h.addr] = h.node
			}
			if h.addr.IsLoopback() || h.addr.IsLinkLocalUnicast() {
				continue
			}
			if other, taken := first[h.addr]; taken && owner[h.addr] != d {
				l.at(h.node, "%s is an address of another host too: at %s", h.addr, other.node.place())
			} else if !taken {
				first[h.addr], owner[h.addr] = h, d
			}
		}
	}
}

func (l *loader) checkPodRanges() {
	var earlier []namedRange
	for _, d := range l.hosts {
		own := value[netip.Prefix](d, "host.pod_range")
		if !own.IsValid() {
			continue
		}
		n := d.tree.get("host.pod_range")
		for _, other := range earlier {
			if other.prefix.Overlaps(own) {
				l.at(n, "%s overlaps the pod range %s of host %q (%s)", own, other.prefix, other.path, other.node.place())
				break
			}
		}
		earlier = append(earlier, namedRange{d.spec.Name, own, n})
	}
}

// checkKeys looks for what two hosts of the mesh cannot share.
func (l *loader) checkKeys() {
	for _, path := range []string{"wireguard.public_key", "wireguard.endpoint"} {
		first := map[string]*node{}
		for _, d := range l.hosts {
			v, n := value[string](d, path), d.tree.get(path)
			switch {
			case v == "":
			case first[v] != nil:
				l.at(n, "is that of another host too: at %s", first[v].place())
			default:
				first[v] = n
			}
		}
	}
}

// checkSnapshotKeys looks for a key that two hosts have written down: each makes
// its own, so one of them has copied the other's.
func (l *loader) checkSnapshotKeys() {
	first := map[string]*node{}
	for _, d := range l.hosts {
		list := d.tree.get("snapshots.public_keys")
		if list == nil {
			continue
		}
		for _, n := range list.list {
			switch key := parsed[string](n); {
			case key == "":
			case first[key] != nil:
				l.at(n, "is that of another host too, or twice here: at %s", first[key].place())
			default:
				first[key] = n
			}
		}
	}
}

// checkReachable wants, of any two hosts of the mesh, one that the other can
// send the first packet to.
func (l *loader) checkReachable() {
	var hidden []*draft
	for _, d := range l.hosts {
		own := d.tree.get("wireguard")
		if own != nil && d.has("network.wireguard") && !own.bad && own.get("endpoint") == nil {
			hidden = append(hidden, d)
		}
	}
	for _, d := range hidden[min(1, len(hidden)):] {
		l.missing(d.file, d.tree.get("wireguard"), "wireguard.endpoint", "is missing: host %q has none either (%s), so neither could reach the other", hidden[0].spec.Name, hidden[0].tree.get("wireguard").place())
	}
}

// sortedAddrs returns addresses sorted and without duplicates or invalid ones.
func sortedAddrs(addrs []netip.Addr) []netip.Addr {
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() })
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
