package hosts

import (
	"maps"
	"net/netip"
	"slices"
)

// shared is what every host takes from the others' files, made once: a fleet of
// a thousand hosts has a million pairs of them.
type shared struct {
	peers    []Peer // of all hosts, by name
	prefixes []netip.Prefix
	byHost   map[string][]netip.Prefix
	clients  []netip.Prefix
	names    map[netip.Addr][]string // /etc/hosts, of the fleet
	entries  []HostsEntry            // the same, sorted
}

// share collects it from the hosts, which are sorted by name.
func share(all []*draft) *shared {
	s := &shared{byHost: map[string][]netip.Prefix{}, names: map[netip.Addr][]string{}}
	for _, d := range all {
		peer := d.asPeer()
		s.peers = append(s.peers, peer)
		addrs := []netip.Addr{peer.Address}
		s.addName(peer.Address, peer.Name)
		if w := peer.WireGuard; w != nil {
			addrs = append(addrs, w.Address)
			if w.Address != peer.Address {
				s.addName(w.Address, peer.Name+meshSuffix)
			}
			for _, c := range w.Clients {
				s.clients = append(s.clients, c.Addresses...)
			}
		}
		s.byHost[peer.Name] = single(addrs)
		s.prefixes = append(s.prefixes, s.byHost[peer.Name]...)
	}
	s.prefixes, s.clients = sortedPrefixes(s.prefixes), sortedPrefixes(s.clients)
	for _, a := range slices.SortedFunc(maps.Keys(s.names), netip.Addr.Compare) {
		s.entries = append(s.entries, HostsEntry{Address: a, Names: s.names[a]})
	}
	return s
}

func (s *shared) addName(a netip.Addr, name string) {
	if a.IsValid() {
		s.names[a] = append(s.names[a], name)
	}
}

// others are the peers of a host.
func (s *shared) others(name string) []Peer {
	if len(s.peers) < 2 {
		return nil
	}
	peers := make([]Peer, 0, len(s.peers)-1)
	for _, p := range s.peers {
		if p.Name != name {
			peers = append(peers, p)
		}
	}
	return peers
}

// fleetPrefixes are the other hosts' node and mesh addresses: packets come from
// either, by the route that they take.
func (d *draft) fleetPrefixes() []netip.Prefix {
	own := d.shared.byHost[d.spec.Name]
	if len(d.shared.prefixes) == len(own) {
		return nil
	}
	others := make([]netip.Prefix, 0, len(d.shared.prefixes))
	for _, p := range d.shared.prefixes {
		if !slices.Contains(own, p) {
			others = append(others, p)
		}
	}
	return others
}

// hostPrefixes are the node and the mesh address of one host, which may be this
// one.
func (d *draft) hostPrefixes(name string) []netip.Prefix { return d.shared.byHost[name] }

// clientPrefixes are the addresses of all WireGuard clients of the fleet.
func (d *draft) clientPrefixes() []netip.Prefix { return slices.Clone(d.shared.clients) }

// deriveHosts collects the entries of /etc/hosts: the fleet's, then those
// written. It leaves them nil where the spec asks for none.
func (d *draft) deriveHosts() {
	written := d.tree.get("network.hosts")
	more := map[netip.Addr][]string{}
	for _, text := range written.names() {
		if a, err := parseAddr(text); err == nil {
			more[a] = values[string](written.table[text])
		}
	}
	fleet := value[bool](d, "network.hosts_file")
	if fleet && len(more) == 0 {
		d.spec.Names.Hosts = slices.Clip(d.shared.entries) // the same for every host
		return
	}
	order := slices.Collect(maps.Keys(more))
	if fleet {
		order = slices.AppendSeq(order, maps.Keys(d.shared.names))
	}
	for _, a := range sortedAddrs(order) {
		var names []string
		if fleet {
			names = d.shared.names[a]
		}
		if extra := more[a]; len(extra) > 0 {
			names = unique(slices.Concat(names, extra))
		}
		d.spec.Names.Hosts = append(d.spec.Names.Hosts, HostsEntry{Address: a, Names: names})
	}
}
