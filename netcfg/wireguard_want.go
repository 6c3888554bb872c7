package netcfg

import (
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// wantWireGuard returns the device of the spec, nil where it has none. A peer
// that has no public key in the fleet yet is left out: there is nothing to let
// in. A hub's clients are peers like others, but they call: they have neither
// endpoint nor keepalive here.
func wantWireGuard(spec *hosts.Spec, root layout.Root) *WireGuard {
	s := spec.Network.WireGuard
	if s == nil {
		return nil
	}
	w := &WireGuard{
		Interface: s.Interface, Folder: wireGuardFolder(root),
		Address: s.Address, MTU: s.MTU, Port: s.Port,
	}
	w.PublicKey, _ = wgtypes.ParseKey(s.PublicKey) // checked by hosts; zero where empty
	for _, p := range spec.Peers {
		if p.WireGuard != nil {
			w.addPeer(s, p.Name, p.WireGuard.PublicKey, p.WireGuard.Endpoint, allowedIPs(spec, p), s.Keepalive)
		}
	}
	for _, c := range s.Clients {
		w.addPeer(s, c.Name, c.PublicKey, "", sortedPrefixes(c.Addresses), 0)
	}
	sortPeers(w.Peers)
	return w
}

func (w *WireGuard) addPeer(s *hosts.WireGuard, name, public, endpoint string, allowed []netip.Prefix, keepalive time.Duration) {
	key, err := wgtypes.ParseKey(public)
	if err != nil {
		return // it has none yet: no valid spec has a wrong one
	}
	p := WireGuardPeer{Name: name, PublicKey: key, AllowedIPs: allowed, Endpoint: endpoint, Keepalive: keepalive}
	if s.PresharedKeys != "" {
		p.PresharedFile = filepath.Join(s.PresharedKeys, name+".psk")
	}
	w.Peers = append(w.Peers, p)
}

// allowedIPs are the addresses that a peer may send from: its own in the mesh,
// those of the clients that are reached through it and, where nodeagent gives
// pods their addresses, its pods'.
func allowedIPs(spec *hosts.Spec, p hosts.Peer) []netip.Prefix {
	ips := []netip.Prefix{netip.PrefixFrom(p.WireGuard.Address, p.WireGuard.Address.BitLen())}
	for _, c := range p.WireGuard.Clients {
		ips = append(ips, c.Addresses...)
	}
	if spec.Kubernetes.CNI == "bridge" && p.PodRange.IsValid() {
		ips = append(ips, p.PodRange)
	}
	return sortedPrefixes(ips)
}

// sortedPrefixes returns the prefixes masked, in order and each once, as a
// device lists them.
func sortedPrefixes(list []netip.Prefix) []netip.Prefix {
	var sorted []netip.Prefix
	for _, p := range list {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, comparePrefixes)
	return slices.Compact(sorted)
}

// clientRoutes lead to the clients' addresses beyond the mesh's own range, such
// as a network behind a client: through the device, which knows the peer.
func clientRoutes(spec *hosts.Spec) []Route {
	s := spec.Network.WireGuard
	if s == nil {
		return nil
	}
	clients := slices.Clone(s.Clients)
	for _, p := range spec.Peers {
		if p.WireGuard != nil && p.WireGuard.PublicKey != "" {
			clients = append(clients, p.WireGuard.Clients...)
		}
	}
	var routes []Route
	for _, c := range clients {
		for _, a := range c.Addresses {
			if inside := a.Bits() >= s.Address.Bits() && s.Address.Masked().Contains(a.Addr()); !inside && c.PublicKey != "" {
				routes = append(routes, Route{Destination: a.Masked(), Device: s.Interface, Protocol: RouteProtocol})
			}
		}
	}
	return routes
}
