package fleets

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/netcfg"
)

// hetznerPorts are those that a host of such a fleet might listen on: ssh, HTTP,
// etcd, Kubernetes' components, an exporter, a node port.
var hetznerPorts = []uint16{22, 80, 443, 2379, 2380, 6443, 9100, 10249, 10250, 10256, 10257, 10259, 30080}

// datacenters are how the provider serves each host of hetzner-ha: untagged on
// its own network with a gateway, besides the private network's VLAN.
var datacenters = []struct {
	host, gateway, network6 string
	vlan                    int
}{
	{"fsn1", "192.0.2.1/26", "2001:db8:1::/64", 11},
	{"nbg1", "192.0.2.65/26", "2001:db8:2::/64", 12},
	{"hel1", "192.0.2.129/26", "2001:db8:3::/64", 13},
	{"bastion", "203.0.113.1/26", "2001:db8:4::/64", 14},
}

// The hosts' addresses on the private network and in the mesh, and the public
// ones, as the fleet's files have them.
var hetznerAddresses = map[string]struct{ private, mesh, public, public6 netip.Addr }{
	"fsn1":    {addr("10.40.0.11"), addr("10.41.0.11"), addr("192.0.2.10"), addr("2001:db8:1::2")},
	"nbg1":    {addr("10.40.0.12"), addr("10.41.0.12"), addr("192.0.2.74"), addr("2001:db8:2::2")},
	"hel1":    {addr("10.40.0.13"), addr("10.41.0.13"), addr("192.0.2.138"), addr("2001:db8:3::2")},
	"bastion": {addr("10.40.0.10"), addr("10.41.0.1"), addr("203.0.113.10"), addr("2001:db8:4::2")},
}

var addr = netip.MustParseAddr

// workers are the hosts but the bastion, which is another kind.
var workers = []string{"fsn1", "hel1", "nbg1"}

// hetzner is the fleet at its provider.
type hetzner struct {
	fleet
	provider *place // its switch and routers: the internet
	visitor  *place // somebody on the internet
	neighbor *place // another machine on the private network
	laptop   *place // an administrator's, at home
	forger   *place // somebody on the way, who sends with the address of a pod
}

// TestHetznerHA makes the fleet hetzner-ha as a whole, and tries who reaches what.
func TestHetznerHA(t *testing.T) {
	h := hetzner{fleet: load(t, "hetzner-ha")}
	h.build(t)
	start := time.Now()
	for _, one := range h.hosts {
		one.converge(t)
		one.listen(t, hetznerPorts)
	}
	t.Logf("four hosts converged in %s", time.Since(start).Round(time.Millisecond))
	h.start(t)
	if t.Failed() {
		return
	}
	t.Run("mesh", h.mesh)
	t.Run("who reaches what", func(t *testing.T) { try(t, h.attempts()) })
	t.Run("a pod's address", func(t *testing.T) {
		at := map[*host]netip.Addr{}
		for _, name := range workers {
			at[h.hosts[name]] = hetznerAddresses[name].public
		}
		forgePod(t, h.forger, at, "10.42.0.0/16")
	})
	t.Run("floating address", h.floating)
	t.Run("without firewalls", func(t *testing.T) { withoutFirewalls(t, h.hosts, h.attempts()) })
}

// build wires the fleet: the provider's switch has a port for each host, and its
// router a leg in each network. It lets through what has the right source only.
func (h *hetzner) build(t *testing.T) {
	h.provider, h.visitor = newPlace(t, "provider"), newPlace(t, "visitor")
	h.neighbor, h.laptop, h.forger = newPlace(t, "neighbor"), newPlace(t, "laptop"), newPlace(t, "forger")
	p := h.provider
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"} {
		p.set(t, key, "1")
	}
	p.ip(t, "link add sw type bridge vlan_filtering 1 vlan_default_pvid 0 mcast_snooping 0", "link set sw up")
	ip, bridge := []string{"link add link sw name sw.4000 type vlan id 4000", "link set sw.4000 up", "addr add 198.51.100.1/29 dev sw.4000"},
		[]string{"vlan add dev sw vid 4000 self"}
	for _, d := range datacenters {
		one := h.hosts[d.host]
		cable(t, p, d.host, one.place, "eth0")
		leg := fmt.Sprintf("sw.%d", d.vlan)
		at := hetznerAddresses[d.host]
		bridge = append(
			bridge,
			fmt.Sprintf("vlan add dev %s vid %d pvid untagged", d.host, d.vlan),
			fmt.Sprintf("vlan add dev %s vid 4000", d.host),
			fmt.Sprintf("vlan add dev sw vid %d self", d.vlan),
		)
		ip = append(
			ip,
			fmt.Sprintf("link set %s master sw", d.host),
			fmt.Sprintf("link add link sw name %s type vlan id %d", leg, d.vlan),
			"link set "+leg+" up",
			"addr add "+d.gateway+" dev "+leg,
			"addr add fe80::1/64 dev "+leg,
			"route add "+d.network6+" dev "+leg,
			// Nobody has these routes by right: they stand for whoever can send
			// packets to a host's card.
			fmt.Sprintf("route add %s via %s dev %s", at.private, at.public, leg),
			fmt.Sprintf("route add %s via %s dev %s", at.mesh, at.public, leg),
		)
	}
	cable(t, p, "neighbor", h.neighbor, "eth0")
	p.ip(t, append(ip, "link set neighbor master sw")...)
	p.bridge(t, append(bridge, "vlan add dev neighbor vid 4000")...)
	h.buildNeighbor(t)
	home(t, p, h.visitor, "203.0.113.129/26", "203.0.113.130/26", "2001:db8:ff::/64", "2001:db8:ff::2/64")
	home(t, p, h.laptop, "203.0.113.193/26", "203.0.113.194/26", "2001:db8:fe::/64", "2001:db8:fe::2/64")
	home(t, p, h.forger, "10.42.200.254/24", "10.42.200.1/24", "2001:db8:fd::/64", "2001:db8:fd::2/64")
}

// buildNeighbor puts another machine onto the private network, which sends there
// also what is for the hosts' other addresses.
func (h *hetzner) buildNeighbor(t *testing.T) {
	lines := []string{
		"link set eth0 up", "link add link eth0 name vlan type vlan id 4000", "link set vlan up mtu 1400", "addr add 10.40.0.99/24 dev vlan",
	}
	for _, at := range hetznerAddresses {
		lines = append(lines, fmt.Sprintf("route add %s via %s", at.mesh, at.private), fmt.Sprintf("route add %s via %s", at.public, at.private))
	}
	h.neighbor.ip(t, lines...)
}

// home connects somebody to the internet.
func home(t *testing.T, internet, who *place, gateway, address, network6, address6 string) {
	t.Helper()
	cable(t, internet, who.name, who, "eth0")
	internet.ip(t, "addr add "+gateway+" dev "+who.name, "addr add fe80::1/64 dev "+who.name, "route add "+network6+" dev "+who.name)
	via := netip.MustParsePrefix(gateway).Addr()
	who.ip(t, "link set eth0 up", "addr add "+address+" dev eth0", "route add default via "+via.String(),
		"addr add "+address6+" dev eth0", "route add ::/0 via fe80::1 dev eth0")
}

// start brings the administrator's tunnel up, which knows the bastion alone, and
// waits until every packet's way is known.
func (h *hetzner) start(t *testing.T) {
	every := 25 * time.Second
	h.laptop.tunnel(t, h.keys["alice"], wgtypes.PeerConfig{
		PublicKey: h.public["bastion"], Endpoint: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.10:51820")), PersistentKeepaliveInterval: &every,
		AllowedIPs: []net.IPNet{{IP: net.IPv4(10, 41, 0, 0).To4(), Mask: net.CIDRMask(24, 32)}},
	})
	h.laptop.ip(t, "addr add 10.41.0.101/32 dev wg0", "link set wg0 up mtu 1340", "route add 10.41.0.0/24 dev wg0")
	eventually(t, "the laptop reaches the bastion", func() bool { return h.laptop.pinged(t, hetznerAddresses["bastion"].mesh) })
	for name, at := range hetznerAddresses {
		for _, from := range []*place{h.visitor, h.neighbor} {
			eventually(t, from.name+" reaches "+name, func() bool { return from.pinged(t, at.public) })
		}
	}
}

// mesh sends through the mesh between every two hosts, the largest packets too
// that the fleet has it take.
func (h *hetzner) mesh(t *testing.T) {
	for from, one := range h.hosts {
		for to, at := range hetznerAddresses {
			if to != from {
				eventually(t, from+" reaches "+to, func() bool { return one.pingedWhole(t, at.mesh, 1340) })
			}
		}
	}
}

// attempts are all who try to reach each port of each host, by every way that
// there is. This table is what the fleet promises.
func (h *hetzner) attempts() (all []attempt) {
	web := []uint16{443}
	add := func(from *place, way, to string, at netip.Addr, open []uint16) {
		if to == "bastion" { // it serves nothing
			open = slices.DeleteFunc(slices.Clone(open), func(port uint16) bool { return port != 22 })
		}
		for _, port := range hetznerPorts {
			all = append(all, attempt{from, way, h.hosts[to], netip.AddrPortFrom(at, port), slices.Contains(open, port)})
		}
	}
	for to, at := range hetznerAddresses {
		add(h.visitor, "from the internet", to, at.public, web)
		add(h.visitor, "from the internet by IPv6", to, at.public6, web)
		add(h.visitor, "from the internet at its private address", to, at.private, web)
		add(h.visitor, "from the internet at its mesh address", to, at.mesh, web)
		add(h.neighbor, "on the private network", to, at.private, web)
		add(h.neighbor, "on the private network at its mesh address", to, at.mesh, web)
		add(h.neighbor, "on the private network at its public address", to, at.public, web)
		// The bastion passes nothing else on, not even 443.
		add(h.laptop, "through WireGuard", to, at.mesh, []uint16{22, 6443})
	}
	for _, to := range workers {
		at := hetznerAddresses[to]
		add(h.hosts["bastion"].place, "through WireGuard", to, at.mesh, []uint16{22, 443, 6443})
		add(h.hosts["bastion"].place, "by the private network", to, at.private, web)
		add(h.hosts[to].place, "through WireGuard", "bastion", hetznerAddresses["bastion"].mesh, nil)
		for _, from := range workers {
			if from != to {
				add(h.hosts[from].place, "through WireGuard", to, at.mesh, []uint16{443, 2379, 2380, 6443, 10250})
				add(h.hosts[from].place, "by the private network", to, at.private, web)
				add(h.hosts[from].place, "by the internet", to, at.public, web)
			}
		}
	}
	return all
}

// floating holds the floating address on one host after another, as the agent
// does once it has the claim.
func (h *hetzner) floating(t *testing.T) {
	prefix, link := netip.MustParsePrefix("198.51.100.2/29"), "vlan4000"
	address := prefix.Addr()
	known := func() string { return h.provider.neighbor(t, "sw.4000", address) }
	at := func(holder *host) (all []attempt) {
		for _, port := range hetznerPorts {
			all = append(all, attempt{h.visitor, "at the floating address", holder, netip.AddrPortFrom(address, port), port == 443})
		}
		return all
	}
	last := ""
	for _, name := range workers {
		holder := h.hosts[name]
		if last != "" { // as it knows it, whatever time has passed
			h.provider.ip(t, "neigh replace "+address.String()+" lladdr "+last+" nud stale dev sw.4000")
		}
		holder.run(t, func() error { return holder.sys.Hold(t.Context(), link, prefix, 5*time.Minute) })
		if last != "" && known() != last {
			t.Errorf("the router has %q for %s before %s announced it, want the last holder's %q", known(), address, name, last)
		}
		holder.run(t, func() error { return netcfg.Announce(t.Context(), link, address) })
		own := holder.mac(t, link)
		if last != "" { // the announcement alone tells where it is; who knew nothing asks
			eventually(t, "the router learns that "+name+" has the floating address", func() bool { return known() == own })
		}
		if name == workers[0] {
			try(t, at(holder))
		} else {
			try(t, slices.DeleteFunc(at(holder), func(a attempt) bool { return !a.expect }))
		}
		if known() != own {
			t.Errorf("the router has %q for %s, want %s of %s", known(), address, own, name)
		}
		holder.isConverged(t)
		holder.run(t, func() error { return holder.sys.Drop(t.Context(), link, prefix) })
		last = own
	}
	// Held by nobody, it is nobody's: the router may say so, or nothing.
	nobody := attempt{from: h.visitor, at: netip.AddrPortFrom(address, 443)}
	if got := connect(t, []attempt{nobody})[0]; got != silent && got != answer(unix.EHOSTUNREACH.Error()) {
		t.Errorf("dropped by all, %s answers as %q", address, got)
	}
}
