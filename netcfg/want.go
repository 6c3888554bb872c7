package netcfg

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Want returns the network that the spec describes, for the running host.
func Want(spec *hosts.Spec) State { return WantIn("", spec) }

// WantIn returns the network that the spec describes, with the host's WireGuard
// key kept below the given root. Both ends of a veth are in it even where the
// spec lists one: the pair lives and dies together.
func WantIn(root layout.Root, spec *hosts.Spec) State {
	links := wantLinks(spec.Network.Links)
	return State{
		Links:     links,
		Routes:    wantRoutes(spec, links),
		Rules:     wantRules(spec.Network.Rules),
		WireGuard: wantWireGuard(spec, root),
		Firewall:  wantFirewall(spec),
	}
}

func wantLinks(specs []hosts.Link) []Link {
	links := map[string]Link{}
	for _, s := range specs {
		links[s.Name] = wantLink(s)
	}
	for _, s := range specs {
		if s.Kind != hosts.LinkVeth || s.Peer == "" {
			continue
		}
		peer, listed := links[s.Peer]
		switch {
		case !listed:
			links[s.Peer] = Link{Name: s.Peer, Kind: hosts.LinkVeth, MTU: s.MTU, Peer: s.Name, Up: true, Owned: true, Marked: true}
		case peer.Kind == hosts.LinkVeth && peer.Peer == "":
			peer.Peer = s.Name
			links[s.Peer] = peer
		}
	}
	return mastersFirst(links)
}

func wantLink(s hosts.Link) Link {
	made := s.Kind != hosts.LinkPhysical
	l := Link{
		Name: s.Name, Kind: s.Kind, MTU: s.MTU, Master: s.Master, Peer: s.Peer, Parent: s.Parent,
		Up: !s.Down, Owned: made, Marked: made, Adopt: s.Adopt && made, Match: s.Match,
		Placed: !made && s.Master != "", MAC: strings.ToLower(s.MAC),
		AltNames: slices.Compact(slices.Sorted(slices.Values(s.AltNames))),
		Settings: wantSettings(s), Addresses: wantAddresses(s.Addresses),
	}
	l.Port, l.VLANs = wantPort(s.Port)
	return l
}

func wantAddresses(specs []hosts.Address) []Address {
	var addresses []Address
	for _, s := range specs {
		addresses = append(addresses, Address{
			Prefix: s.Prefix, Scope: s.Scope, NoDAD: s.NoDAD, Deprecated: s.Deprecated, Owned: true,
			Valid: wholeSeconds(s.Valid), Preferred: wholeSeconds(s.Preferred),
		})
	}
	sortAddresses(addresses)
	return slices.Compact(addresses)
}

// mastersFirst orders links so that each master stands before its ports, each
// parent before what lies upon it, and
// by name where that leaves a choice. A ring of masters, which no valid spec
// has, ends at the link that closes it.
func mastersFirst(links map[string]Link) []Link {
	names := make([]string, 0, len(links))
	for name := range links {
		names = append(names, name)
	}
	slices.Sort(names)
	var ordered []Link
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		link, ok := links[name]
		if !ok || seen[name] {
			return
		}
		seen[name] = true
		visit(link.Master)
		visit(link.Parent)
		ordered = append(ordered, link)
	}
	for _, name := range names {
		visit(name)
	}
	return ordered
}

func wantRoutes(spec *hosts.Spec, links []Link) []Route {
	var routes []Route
	named := map[netip.Prefix]bool{} // what the spec says of a destination wins
	for _, s := range spec.Network.Routes {
		r := wantRoute(s, spec, links)
		routes = append(routes, r)
		if r.Table == 0 {
			named[r.Destination] = true
		}
	}
	for _, r := range append(podRoutes(spec, links), clientRoutes(spec)...) {
		if !named[r.Destination] {
			named[r.Destination] = true
			routes = append(routes, r)
		}
	}
	sortRoutes(routes)
	return compactRoutes(routes)
}

// podRoutes lead to the pods of the other hosts, where nodeagent gives pods
// their addresses: through WireGuard where both hosts have it, by the peer's
// node address otherwise, which must then be on a network of this host. What of
// the cluster's range is no host's leads nowhere.
func podRoutes(spec *hosts.Spec, links []Link) []Route {
	if spec.Kubernetes.CNI != "bridge" || !spec.Has(hosts.RoleWorker) && !spec.Has(hosts.RoleControlPlane) {
		return nil
	}
	var routes []Route
	for _, p := range spec.Peers {
		if !p.PodRange.IsValid() {
			continue
		}
		r := Route{Destination: p.PodRange.Masked(), Protocol: RouteProtocol}
		if wg := spec.Network.WireGuard; wg != nil && p.WireGuard != nil {
			// The range is among the peer's allowed addresses.
			r.Device = wg.Interface
		} else {
			r.Via, r.Device = p.Address, deviceTowards(p.Address, spec, links)
		}
		routes = append(routes, r)
	}
	if len(routes) > 0 && nobodysPods(spec) {
		routes = append(routes, Route{Destination: spec.Kubernetes.PodRange.Masked(), Type: hosts.RouteUnreachable, Protocol: RouteProtocol})
	}
	return routes
}

// nobodysPods tells whether some of the cluster's pod range may be no host's.
// Packets for it must not take the default route: they would leave the cluster
// in the clear, and whoever is on their way could send with a pod's address, to
// which the API server and the kubelet are open, and get the answers. A route
// to the very range of a host would be in the way of that host's pods.
func nobodysPods(spec *hosts.Spec) bool {
	all := spec.Kubernetes.PodRange
	whole := func(p netip.Prefix) bool { return p.IsValid() && p.Bits() <= all.Bits() }
	return all.IsValid() && !whole(spec.Kubernetes.HostPodRange) &&
		!slices.ContainsFunc(spec.Peers, func(p hosts.Peer) bool { return whole(p.PodRange) })
}

// deviceTowards names the wanted link in whose network the gateway lies, or ""
// where none is: the kernel then chooses among links that the spec does not
// name. Without this the kernel could choose a link that is about to go.
func deviceTowards(gateway netip.Addr, spec *hosts.Spec, links []Link) string {
	device, longest := "", -1
	consider := func(name string, network netip.Prefix) {
		if network.Contains(gateway) && network.Bits() > longest {
			device, longest = name, network.Bits()
		}
	}
	for _, l := range links {
		for _, a := range l.Addresses {
			consider(l.Name, a.Prefix)
		}
	}
	if wg := spec.Network.WireGuard; wg != nil {
		consider(wg.Interface, wg.Address)
	}
	return device
}

func sortAddresses(addresses []Address) {
	slices.SortFunc(addresses, func(a, b Address) int { return comparePrefixes(a.Prefix, b.Prefix) })
}

// comparePrefixes orders IPv4 before IPv6, then by address, then by length.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
