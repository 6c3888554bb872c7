package hosts

import (
	"net/netip"
	"slices"
)

// derive fills in what a host takes from the others' files.
func (d *draft) derive(s *shared) {
	d.shared = s
	d.spec.Peers = s.others(d.spec.Name)
	d.deriveFirewall()
	d.deriveHosts()
	d.deriveProbes()
}

// meshSuffix is what the name of a host's mesh address ends in, where the node
// address is another one.
const meshSuffix = ".mesh"

// deriveProbes leaves out the probes that ask nothing of this host, so that
// cluster.toml can name them for all.
func (d *draft) deriveProbes() {
	s := d.spec
	p := &s.Network.Probes
	p.Names = slices.DeleteFunc(p.Names, func(name string) bool {
		switch name {
		case probeWireGuard:
			return s.Network.WireGuard == nil
		case probeEtcd:
			return !s.Has(RoleEtcd) && !s.Has(RoleControlPlane)
		case probeAPI:
			return !s.Has(RoleWorker) && !s.Has(RoleControlPlane)
		case probeVault:
			return len(s.Roles) == 0
		}
		return false
	})
	if len(p.Names) == 0 {
		p.Names = nil
	}
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
			Clients:   slices.Clone(w.Clients),
		}
	}
	return p
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func sortedPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, comparePrefixes)
	return slices.Compact(prefixes)
}
