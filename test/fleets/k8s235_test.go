package fleets

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// k8sPorts are those that a host of k8s-235 might listen on, Cilium's besides.
var k8sPorts = []uint16{22, 80, 443, 2379, 2380, 4240, 4244, 6443, 9100, 10249, 10250, 10256, 10257, 10259, 30080}

// The number of each host of k8s-235 in all its addresses.
var k8sNumbers = map[string]int{"soarin": 1, "sassaflash": 2, "stormfeather": 3}

func k8sPublic(host string) netip.Addr {
	return addr("192.0.2." + strconv.Itoa(k8sNumbers[host]))
}

func k8sMesh(host string) netip.Addr {
	return addr("10.235.0." + strconv.Itoa(k8sNumbers[host]))
}

// TestK8s235 makes the fleet k8s-235 as a whole: a mesh of three, and everything
// else closed.
func TestK8s235(t *testing.T) {
	f := load(t, "k8s-235")
	internet, visitor := newPlace(t, "internet"), newPlace(t, "visitor")
	laptop, forger := newPlace(t, "laptop"), newPlace(t, "forger")
	internet.set(t, "net/ipv4/ip_forward", "1")
	internet.ip(t, "link add br0 type bridge", "link set br0 up", "addr add 192.0.2.254/24 dev br0")
	join := func(who *place, address netip.Addr) {
		cable(t, internet, who.name, who, "eth0")
		internet.ip(t, "link set "+who.name+" master br0")
		who.ip(t, "link set eth0 up", "addr add "+address.String()+"/24 dev eth0", "route add default via 192.0.2.254")
	}
	join(visitor, addr("192.0.2.200"))
	for name, h := range f.hosts {
		join(h.place, k8sPublic(name)) // the fleet leaves the hosts' own network alone
		visitor.ip(t, fmt.Sprintf("route add %s via %s", k8sMesh(name), k8sPublic(name)))
		h.converge(t)
		h.listen(t, k8sPorts)
	}
	home(t, internet, laptop, "203.0.113.193/26", "203.0.113.194/26", "2001:db8:fe::/64", "2001:db8:fe::2/64")
	home(t, internet, forger, "10.236.200.254/24", "10.236.200.1/24", "2001:db8:fd::/64", "2001:db8:fd::2/64")
	f.carryLaptop(t, laptop)
	for name, h := range f.hosts {
		eventually(t, "the laptop reaches "+name, func() bool { return laptop.pinged(t, k8sMesh(name)) })
		eventually(t, "the visitor reaches "+name, func() bool { return visitor.pinged(t, k8sPublic(name)) })
		for other := range f.hosts {
			if other != name {
				eventually(t, name+" reaches "+other, func() bool { return h.pingedWhole(t, k8sMesh(other), 1420) })
			}
		}
	}
	attempts := f.k8sAttempts(visitor, laptop)
	t.Run("who reaches what", func(t *testing.T) { try(t, attempts) })
	t.Run("a pod's address", func(t *testing.T) {
		at := map[*host]netip.Addr{}
		for name, h := range f.hosts {
			at[h] = k8sPublic(name)
		}
		forgePod(t, forger, at, "10.236.0.0/16")
	})
	t.Run("without firewalls", func(t *testing.T) { withoutFirewalls(t, f.hosts, attempts) })
}

// carryLaptop makes the administrator's tunnel: the laptop is a client of each
// host, at an address for each.
func (f fleet) carryLaptop(t *testing.T, laptop *place) {
	t.Helper()
	var peers []wgtypes.PeerConfig
	var lines []string
	for name, number := range k8sNumbers {
		mesh := k8sMesh(name)
		peers = append(peers, wgtypes.PeerConfig{
			PublicKey: f.public[name], Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(k8sPublic(name), 51820)),
			AllowedIPs: []net.IPNet{{IP: mesh.AsSlice(), Mask: net.CIDRMask(32, 32)}},
		})
		lines = append(lines, fmt.Sprintf("addr add 10.235.0.%d/32 dev wg0", 100+number),
			fmt.Sprintf("route add %s dev wg0 src 10.235.0.%d", mesh, 100+number))
	}
	laptop.tunnel(t, f.keys["laptop-1"], peers...)
	laptop.ip(t, append([]string{"link set wg0 up"}, lines...)...)
}

// k8sAttempts are all who try to reach each port of each host.
func (f fleet) k8sAttempts(visitor, laptop *place) (all []attempt) {
	add := func(from *place, way string, to *host, at netip.Addr, open ...uint16) {
		for _, port := range k8sPorts {
			all = append(all, attempt{from, way, to, netip.AddrPortFrom(at, port), slices.Contains(open, port)})
		}
	}
	for name, to := range f.hosts {
		public, mesh := k8sPublic(name), k8sMesh(name)
		add(visitor, "from the same network", to, public)
		add(visitor, "at its mesh address", to, mesh)
		add(laptop, "from home", to, public)
		add(laptop, "through WireGuard", to, mesh, 22, 6443)
		for _, from := range f.hosts {
			if from != to {
				add(from.place, "by the internet", to, public)
				add(from.place, "through WireGuard", to, mesh, 22, 2379, 2380, 4240, 6443, 10250)
			}
		}
	}
	return all
}
