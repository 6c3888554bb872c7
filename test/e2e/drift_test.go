package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
	"github.com/nodeagent/nodeagent/test/servers"
)

// byHand is one way in which somebody changes a host by hand.
type byHand struct {
	name   string
	change string // shell, on the host
	right  string // shell that succeeds while the host is as its spec says
	// domain and key name the change that puts it right.
	domain, key string
	// polled tells that nothing announces it, or that it is polled all the same.
	polled bool
	// alone tells that it breaks what another one breaks too.
	alone bool
}

// plainDrift is what the kernel, or the file system, announces; and sysctls. Each
// has a thing of its own to break, so that all can be broken at once.
var plainDrift = []byHand{
	{"address removed", "ip address delete 192.0.2.10/32 dev addr0", "ip -o address show dev addr0 | grep -q 192.0.2.10/32", "network", "address 192.0.2.10/32 on addr0", false, false},
	{"address added to a link of nodeagent's", "ip address add 192.0.2.99/32 dev addr0", "! ip -o address show dev addr0 | grep -q 192.0.2.99", "network", "address 192.0.2.99/32 on addr0", false, false},
	{"addresses flushed", "ip address flush dev flush0", "ip -o -6 address show dev flush0 | grep -q 2001:db8:1::1/64", "network", "address 2001:db8:1::1/64 on flush0", false, false},
	{"route deleted", "ip route delete 198.51.100.0/24", "ip route | grep -q '^198.51.100.0/24 via 203.0.113.1'", "network", "route 198.51.100.0/24", false, false},
	{"route changed", "ip route change 198.51.101.0/24 via 203.0.113.2 proto 229 metric 7", "ip route | grep -q '^198.51.101.0/24 via 203.0.113.1'", "network", "route 198.51.101.0/24", false, false},
	{"adopted route replaced", "ip route replace 198.51.102.0/24 via 203.0.113.2 metric 7", "ip route | grep -q '^198.51.102.0/24 via 203.0.113.1'", "network", "route 198.51.102.0/24", false, false},
	{"policy rule deleted", "ip rule delete priority 1000", "ip rule | grep -q '^1000:.*198.51.100.0/24 lookup 100'", "network", "rule 1000", false, false},
	{"link deleted", "ip link delete gone0", "ip -o address show dev gone0 | grep -q 192.0.2.20/32 && ip route | grep -q '^198.51.103.0/24 dev gone0'", "network", "link gone0", false, false},
	{"link down", "ip link set down0 down", "ip -o link show down0 up | grep -q down0 && ip -6 -o address show dev down0 | grep -q 2001:db8:2::1/64", "network", "link down0", false, false},
	{"port taken out", "ip link set port0 nomaster", "ip -o link show port0 | grep -q 'master addr0'", "network", "link port0", false, false},
	{"MTU changed", "ip link set mtu0 mtu 1300", "ip -o link show mtu0 | grep -q 'mtu 1400'", "network", "link mtu0", false, false},
	{"MTU of hardware changed", "ip link set eth0 mtu 1400", "ip -o link show eth0 | grep -q 'mtu 1450'", "network", "link eth0", false, false},
	{"nft rule removed", "nft delete rule inet nodeagent input handle $(nft -a list chain inet nodeagent input | sed -n 's/.*8080.*handle //p')", "nft list chain inet nodeagent input | grep -q 8080", "network", "firewall", false, false},
	{"nft table flushed", "nft flush table inet nodeagent", "nft list chain inet nodeagent input | grep -q 8080", "network", "firewall", false, true},
	{"nft table deleted", "nft delete table inet nodeagent", "nft list chain inet nodeagent input | grep -q 8080", "network", "firewall", false, true},
	{"/etc/hosts edited", "sed -i /bastion.example.org/d /etc/hosts", "grep -q bastion.example.org /etc/hosts", "names", "hosts", false, false},
	{"resolv.conf edited", "echo nameserver 192.0.2.66 > /etc/resolv.conf", "grep -q 203.0.113.53 /etc/resolv.conf", "names", "resolv", false, false},
	{"resolv.conf replaced", "echo nameserver 192.0.2.66 > /etc/new && mv /etc/new /etc/resolv.conf", "grep -q 203.0.113.53 /etc/resolv.conf", "names", "resolv", false, true},
	{"host name changed", "hostname stranger", "test $(hostname) = dia", "names", "host", false, false},
	{"sysctl changed", "sysctl -q net.ipv4.ip_forward=0", "test $(sysctl -n net.ipv4.ip_forward) = 1", "kernel", "sysctl net.ipv4.ip_forward", true, false},
	{"sysctl of a link changed", "sysctl -q net.ipv4.conf.eth0.rp_filter=0", "test $(sysctl -n net.ipv4.conf.eth0.rp_filter) = 2", "kernel", "sysctl net.ipv4.conf.eth0.rp_filter", true, false},
}

// meshDrift is what is compared because nothing announces it, and what is
// announced of a device that is.
var meshDrift = []byHand{
	{"WireGuard peer removed", "wg set wg0 peer " + eosKey + " remove", "wg show wg0 allowed-ips | grep -q '" + eosKey + ".*10.9.0.20/32'", "network", "peer", true, false},
	{"allowed addresses changed", "wg set wg0 peer " + eosKey + " allowed-ips 10.9.0.66/32", "wg show wg0 allowed-ips | grep -q '" + eosKey + ".*10.9.0.20/32$'", "network", "peer", true, true},
	{"keepalive changed", "wg set wg0 peer " + eosKey + " persistent-keepalive 99", "wg show wg0 persistent-keepalive | grep -q '" + eosKey + ".*off'", "network", "peer", true, true},
	{"WireGuard peer added", "wg set wg0 peer " + laptopKey + " allowed-ips 10.9.0.77/32", "! wg show wg0 peers | grep -q " + laptopKey, "network", "peer", true, false},
	{"port changed", "wg set wg0 listen-port 51999", "test $(wg show wg0 listen-port) = 51820", "network", "wireguard", true, false},
	{"private key changed", "wg genkey >/run/other && wg set wg0 private-key /run/other", "test $(wg show wg0 public-key) = $(nodeagent wireguard key 2>/dev/null)", "network", "wireguard", true, false},
	{"address of the device removed", "ip address delete 10.9.0.10/24 dev wg0", "ip -o address show dev wg0 | grep -q 10.9.0.10/24", "network", "address", true, false},
	{"device deleted", "ip link delete wg0", "ip -o address show dev wg0 | grep -q 10.9.0.10/24 && wg show wg0 allowed-ips | grep -q '" + eosKey + ".*10.9.0.20/32$'", "network", "wireguard", true, true},
}

// Public keys of machines that are not there.
const (
	eosKey    = "KqbcxTDZnD79Q427hFIgRyEmggLtyFARPNSvHyClwUU="
	laptopKey = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
)

const (
	driftMesh = "[network.wireguard]\nrange = \"10.9.0.0/24\"\n"
	driftEos  = "[host]\nroles = []\naddress = \"203.0.113.20\"\n[wireguard]\naddress = \"10.9.0.20\"\nendpoint = \"203.0.113.20:51820\"\npublic_key = \"" + eosKey + "\"\n"
	// inMesh is dia's part of the mesh, with its public key.
	inMesh = "[wireguard]\naddress = \"10.9.0.10\"\nendpoint = \"203.0.113.10:51820\"\npublic_key = \"%s\"\n"

	driftCluster = "[cluster]\nname = \"drift\"\n"
	driftDia     = `[host]
roles = []
address = "203.0.113.10"
[network]
hostname = true
hosts_file = true
[network.hosts]
"192.0.2.9" = ["bastion.example.org"]
[network.dns]
servers = ["203.0.113.53"]
[network.link.eth0]
addresses = ["203.0.113.10/24"]
mtu = 1450
[network.link.addr0]
kind = "bridge"
addresses = ["192.0.2.10/32"]
[network.link.flush0]
kind = "bridge"
addresses = ["2001:db8:1::1/64"]
[network.link.port0]
kind = "veth"
peer = "port1"
master = "addr0"
[network.link.port1]
kind = "veth"
[network.link.gone0]
kind = "bridge"
addresses = ["192.0.2.20/32"]
[network.link.down0]
kind = "bridge"
addresses = ["2001:db8:2::1/64"]
[network.link.mtu0]
kind = "bridge"
mtu = 1400
[[network.route]]
destination = "198.51.100.0/24"
via = "203.0.113.1"
[[network.route]]
destination = "198.51.101.0/24"
via = "203.0.113.1"
metric = 7
[[network.route]]
destination = "198.51.102.0/24"
via = "203.0.113.1"
metric = 7
adopt = true
[[network.route]]
destination = "198.51.103.0/24"
device = "gone0"
[[network.route]]
destination = "198.51.100.0/24"
via = "203.0.113.1"
table = 100
[[network.rule]]
priority = 1000
to = "198.51.100.0/24"
table = 100
[firewall.allow.ssh]
ports = [22]
[firewall.allow.web]
ports = [8080]
[kernel.sysctl]
net.ipv4.ip_forward = 1
net.ipv4.conf.eth0.rp_filter = 2
`
	driftReport = "[drift]\nkernel = \"report\"\nnames = \"report\"\nnetwork = \"report\"\n"
)

// testDrift changes a host by hand in every way that its spec knows, under `run`:
// each must be noticed by what announces it, or by the poll, and put right; and
// only told of where the spec says so.
func testDrift(t *testing.T) {
	servers.Require(t, "compares with wg(8)", func() error {
		return servers.MissingTools("the test", []servers.Tool{{Program: "wg", Package: "wireguard-tools"}})
	}, "CI=true", "NODEAGENT_REQUIRE_LAB=1")
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	h := newDrifting(t, ctx, l)
	h.fleet("cluster.toml", driftCluster)
	h.fleet("dia.toml", driftDia)
	h.must("systemctl", "start", "nodeagent.service")
	h.repairs(plainDrift)
	t.Run("others", func(t *testing.T) { h.with(t).leavesOthersAlone() })
	t.Run("overrun", func(t *testing.T) { h.with(t).survivesOverrun() })
	h.reports(driftDia, plainDrift)

	meshed := driftDia + fmt.Sprintf(inMesh, strings.TrimSpace(h.must("sh", "-c", "nodeagent wireguard key 2>/dev/null")))
	h.must("systemctl", "stop", "nodeagent.service") // no fleet in between is valid
	h.fleet("cluster.toml", driftCluster+driftMesh)
	h.fleet("eos.toml", driftEos)
	h.fleet("dia.toml", meshed)
	h.must("systemctl", "start", "nodeagent.service")
	h.repairs(meshDrift)
	h.reports(meshed, meshDrift)
}
