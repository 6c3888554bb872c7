package hosts

import (
	"net/netip"
	"slices"
	"strconv"
)

// What a valid fleet is warned of: settings each of which is well, and which
// together cut a host off. It is judged by the finished specs.
func (l *loader) checkLockOut(f facts) {
	in := l.entrances()
	enterable := l.enterable(in)
	for _, d := range l.hosts {
		if !enterable[d.spec.Name] {
			l.warn(d.file, d.tree.get("firewall"), "firewall", "nothing from outside of the fleet gets to the ssh of the host %s (port 22, or a rule named \"ssh\"), neither directly nor by way of another host: make sure that there is another way in", d.spec.Name)
		}
		d.checkMeshPort()
		d.checkHub()
		d.checkForwarding()
		d.checkTunnelMTU(f)
		d.checkEndpointsCovered(f)
		d.checkProbeTargets(in.hosts)
	}
	l.checkFloatingEndpoint()
}

const sshPort = 22

// enterable tells of which hosts the ssh can be reached from outside of the
// fleet: by anybody whom a rule names, by a client of a hub, or from a host that
// can be entered itself.
func (l *loader) enterable(in entrances) map[string]bool {
	open := map[string]bool{}
	for again := true; again; {
		again = false
		for _, d := range l.hosts {
			if !open[d.spec.Name] && l.canEnter(d, in, open) {
				open[d.spec.Name], again = true, true
			}
		}
	}
	return open
}

// entrances index who may be a rule's source: a rule may have as many sources as
// the fleet has hosts, and there are as many rules.
type entrances struct {
	hosts   map[netip.Addr]*draft // by node and by mesh address
	clients []hubClient
}

// hubClient is an address of a client, and the hub that carries it.
type hubClient struct {
	hub     *draft
	address netip.Prefix
}

func (l *loader) entrances() entrances {
	in := entrances{hosts: map[netip.Addr]*draft{}}
	for _, d := range l.hosts {
		for _, p := range d.hostPrefixes(d.spec.Name) {
			in.hosts[p.Addr()] = d
		}
		if w := d.spec.Network.WireGuard; w != nil {
			for _, client := range w.Clients {
				for _, p := range client.Addresses {
					in.clients = append(in.clients, hubClient{d, p})
				}
			}
		}
	}
	return in
}

func (l *loader) canEnter(d *draft, in entrances, open map[string]bool) bool {
	if !d.spec.Firewall.Enabled {
		return true
	}
	for _, rule := range d.spec.Firewall.Allow {
		if rule.Name != "ssh" && (rule.Protocol != "tcp" || !slices.Contains(rule.Ports, sshPort)) {
			continue
		}
		for _, from := range d.sourcesOf(rule) {
			if !l.inside(from) || in.clientEnters(d, from) || in.hostEnters(d, from, open) {
				return true
			}
		}
	}
	return false
}

// everywhere are all addresses.
var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// sourcesOf are the ranges that a rule accepts from: what comes in by the mesh's
// own device has an address of the mesh, or of what lies behind a client.
func (d *draft) sourcesOf(rule Allow) []netip.Prefix {
	from := rule.From
	if len(from) == 0 {
		from = everywhere
	}
	w := d.spec.Network.WireGuard
	if w == nil || !slices.Equal(rule.Interfaces, []string{w.Interface}) {
		return from
	}
	var through []netip.Prefix
	for _, p := range append(d.clientPrefixes(), w.Address.Masked()) {
		for _, q := range from {
			switch {
			case !p.Overlaps(q):
			case q.Bits() > p.Bits():
				through = append(through, q)
			default:
				through = append(through, p)
			}
		}
	}
	return through
}

// inside tells whether a range is the fleet's own: of the mesh, of pods, of a
// client, or the address of a host.
func (l *loader) inside(p netip.Prefix) bool {
	within := func(outer netip.Prefix) bool {
		return outer.IsValid() && outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
	}
	first := l.hosts[0]
	_, exactly := slices.BinarySearchFunc(first.shared.prefixes, p, comparePrefixes)
	return exactly || within(first.spec.Kubernetes.PodRange) || within(value[netip.Prefix](first, "network.wireguard.range")) ||
		slices.ContainsFunc(first.shared.clients, within)
}

// clientEnters tells whether a client of a hub is within the range and is let
// through to the host.
func (in entrances) clientEnters(d *draft, from netip.Prefix) bool {
	w := d.spec.Network.WireGuard
	return w != nil && slices.ContainsFunc(in.clients, func(c hubClient) bool {
		return c.address.Overlaps(from) && (c.hub == d || c.hub.forwards(c.address, w.Address.Addr()))
	})
}

// forwards tells whether the host passes ssh on from a client to an address of
// the mesh.
func (d *draft) forwards(client netip.Prefix, to netip.Addr) bool {
	forward := d.spec.Firewall.Forward
	if forward == nil {
		return true
	}
	return slices.ContainsFunc(forward.Allow, func(rule ForwardAllow) bool {
		return (rule.Protocol == "" || rule.Protocol == "tcp") &&
			(len(rule.Ports) == 0 || slices.Contains(rule.Ports, sshPort)) &&
			(len(rule.From) == 0 || slices.ContainsFunc(rule.From, client.Overlaps)) &&
			(len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(p netip.Prefix) bool { return p.Contains(to) }))
	})
}

// hostEnters tells whether another host, which can be entered itself, is within
// the range.
func (in entrances) hostEnters(d *draft, from netip.Prefix, open map[string]bool) bool {
	enters := func(other *draft) bool { return other != nil && other != d && open[other.spec.Name] }
	if from.IsSingleIP() {
		return enters(in.hosts[from.Addr()])
	}
	for address, other := range in.hosts {
		if from.Contains(address) && enters(other) {
			return true
		}
	}
	return false
}

// checkMeshPort looks whether a rule named "wireguard", which replaces the one
// that is there by default, closes the mesh.
func (d *draft) checkMeshPort() {
	w := d.spec.Network.WireGuard
	if w == nil || !d.spec.Firewall.Enabled || value[string](d, "wireguard.endpoint") == "" {
		return
	}
	opens := func(rule Allow) bool {
		return rule.Protocol == "udp" && slices.Contains(rule.Ports, uint16(w.Port)) && !slices.Equal(rule.Interfaces, []string{w.Interface})
	}
	if !slices.ContainsFunc(d.spec.Firewall.Allow, opens) {
		n := d.tree.get("firewall.allow").table[fromWireGuard]
		d.warn(d.file, n, "firewall.allow."+fromWireGuard, "replaces the rule that opens the mesh's own port, and opens %d/udp to nobody outside: nobody could reach the endpoint of the host %s", w.Port, d.spec.Name)
	}
}

// checkHub looks for what keeps a hub from passing on what its clients send.
func (d *draft) checkHub() {
	w := d.spec.Network.WireGuard
	if w == nil || len(w.Clients) == 0 {
		return
	}
	n := d.tree.get("wireguard.client")
	if value[string](d, "wireguard.endpoint") == "" {
		d.warn(d.file, n, "wireguard.endpoint", "is missing: the host carries clients, and they could not find it")
	}
	passes := d.spec.Firewall.Forward == nil
	for _, client := range w.Clients {
		for _, p := range client.Addresses {
			if sysctl := forwardingOf(p); d.spec.Kernel.Sysctls[sysctl] != "1" {
				d.warn(d.file, n, "wireguard.client", "the host carries clients but does not forward packets: %s is not set to 1", sysctl)
			}
			passes = passes || slices.ContainsFunc(d.spec.Firewall.Forward.Allow, func(rule ForwardAllow) bool {
				return len(rule.From) == 0 || slices.ContainsFunc(rule.From, p.Overlaps)
			})
		}
	}
	if !passes && len(d.spec.Peers) > 0 {
		d.warn(d.file, d.tree.get("firewall.forward"), "firewall.forward", "no rule is for the clients of the host %s, so they reach nothing but the host itself", d.spec.Name)
	}
}

// Bytes that WireGuard and the outer headers add to a packet.
const (
	tunnelOverheadIPv4 = 60
	tunnelOverheadIPv6 = 80
)

// checkTunnelMTU compares the mesh's MTU with that of the link by which the host
// is left, as far as the spec knows it.
func (d *draft) checkTunnelMTU(f facts) {
	w := d.spec.Network.WireGuard
	if w == nil {
		return
	}
	overhead := tunnelOverheadIPv4
	underlay, link := ethernetMTU, ""
	for _, o := range f.all {
		_, endpoint := o.endpoint()
		if o == d || !endpoint.IsValid() {
			continue
		}
		if endpoint.Is6() {
			overhead = tunnelOverheadIPv6
		}
		if out := d.link(d.deviceTo(endpoint)); out != nil && out.MTU > 0 {
			underlay, link = out.MTU, out.Name
		}
	}
	n := d.tree.get("network.wireguard")
	if at := n.get("mtu"); at != nil {
		n = at
	}
	switch {
	case w.MTU+overhead <= underlay:
	case link == "":
		d.warn(d.file, n, "network.wireguard.mtu", "%d and the %d bytes of WireGuard are more than the %d of Ethernet", w.MTU, overhead, underlay)
	default:
		d.warn(d.file, n, "network.wireguard.mtu", "%d and the %d bytes of WireGuard are more than the %d of the link %s of the host %s", w.MTU, overhead, underlay, quote(link), d.spec.Name)
	}
	if at := d.tree.get("kubernetes.pod_mtu"); at != nil && d.ownsPodRange() && d.spec.Kubernetes.PodMTU > w.MTU {
		d.warn(d.file, at, at.path, "%d is more than the %d of the mesh, through which pods of different hosts talk", d.spec.Kubernetes.PodMTU, w.MTU)
	}
}

// deviceTo is the link by which an address is reached, empty where the spec does
// not say.
func (d *draft) deviceTo(a netip.Addr) string {
	if route, _ := d.routeTo(a); route != nil {
		if route.Device != "" || !route.Via.IsValid() {
			return route.Device
		}
		a = route.Via
	}
	for _, l := range d.spec.Network.Links {
		if slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Contains(a) }) {
			return l.Name
		}
	}
	return ""
}

// checkEndpointsCovered warns of endpoints that nothing of the spec leads to,
// where the spec has addresses and routes of the family and so means to be
// complete.
func (d *draft) checkEndpointsCovered(f facts) {
	if d.spec.Network.WireGuard == nil {
		return
	}
	for _, other := range f.all {
		at, endpoint := other.endpoint()
		if other == d || !endpoint.IsValid() || !d.writesRoutes(endpoint.Is6()) {
			continue
		}
		route, _ := d.routeTo(endpoint)
		onLink := slices.ContainsFunc(d.spec.Network.Links, func(l Link) bool {
			return slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Contains(endpoint) })
		})
		switch {
		case route == nil && !onLink:
			d.warn(d.file, d.tree.get("network.route"), "network.route", "no route and no link's network leads to %s, the endpoint of the host %q (%s)", endpoint, other.spec.Name, at.place())
		case route != nil && route.Type != RouteUnicast:
			d.warn(d.file, d.tree.get("network.route"), "network.route", "a route of the type %q leads %s, the endpoint of the host %q (%s), to nowhere", route.Type, endpoint, other.spec.Name, at.place())
		}
	}
}

func (d *draft) writesRoutes(six bool) bool {
	return slices.ContainsFunc(d.spec.Network.Routes, func(r Route) bool { return r.Table == 0 && r.Destination.Addr().Is6() == six }) &&
		slices.ContainsFunc(d.spec.Network.Links, func(l Link) bool {
			return slices.ContainsFunc(l.Addresses, func(own Address) bool { return own.Prefix.Addr().Is6() == six })
		})
}

// checkFloatingEndpoint warns of an API endpoint that can be held by a host
// without a kube-apiserver.
func (l *loader) checkFloatingEndpoint() {
	n := l.cluster.get("kubernetes.endpoint")
	endpoint, err := netip.ParseAddr(endpointHost(parsed[string](n)))
	if err != nil {
		return
	}
	for _, d := range l.hosts {
		for _, f := range d.spec.Network.Floating {
			if f.Address.Addr() == endpoint && !d.spec.Has(RoleControlPlane) {
				l.warn(n.file, n, n.path, "%s is the floating address %s, which the host %q may hold, and that is no control plane: port %s would be closed", endpoint, quote(f.Name), d.spec.Name, strconv.Itoa(d.spec.Kubernetes.APIPort))
			}
		}
	}
}
