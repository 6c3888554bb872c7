package hosts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// checkNetworkInvariants holds for the network of every valid spec.
func checkNetworkInvariants(t testing.TB, s *Spec, must func(bool, string)) {
	t.Helper()
	byName := map[string]Link{}
	for _, l := range s.Network.Links {
		byName[l.Name] = l
		must(slices.IsSorted(l.AltNames), "alternative names of "+l.Name)
		must((l.Bond != nil) == (l.Kind == LinkBond) && (l.VLAN != nil) == (l.Kind == LinkVLAN) && (l.VXLAN != nil) == (l.Kind == LinkVXLAN) &&
			(l.Macvlan != nil) == (l.Kind == LinkMacvlan) && (l.VRF != nil) == (l.Kind == LinkVRF) && (l.Bridge == nil || l.Kind == LinkBridge), "settings of "+l.Name)
		must(l.Match == (LinkMatch{}) || l.Kind == LinkPhysical && (l.Match.MAC == "" || l.Match.Path == ""), "match of "+l.Name)
		must(l.Port == nil || l.Master != "", "port of "+l.Name)
		must(!needsParent(l.Kind) || l.Parent != "", "parent of "+l.Name)
	}
	for _, l := range s.Network.Links {
		seen := map[string]bool{}
		for up := l.Name; up != ""; up = byName[up].Master {
			must(!seen[up], "ring of masters at "+l.Name)
			if seen[up] {
				break
			}
			seen[up] = true
		}
	}
	for _, r := range s.Network.Routes {
		ways := r.Via.IsValid() || r.Device != "" || len(r.Nexthops) > 1
		must(r.Destination.IsValid() && r.Destination == r.Destination.Masked() && ways == (r.Type == RouteUnicast), "route")
		must(r.Table != MainTable && r.Table != localTable, "table of a route")
		for _, hop := range r.Nexthops {
			must(hop.Weight >= 1 && (hop.Via.IsValid() || hop.Device != ""), "way of a route")
		}
	}
	type key struct {
		priority int
		six      bool
	}
	rules := map[key]bool{}
	for _, r := range s.Network.Rules {
		must(!rules[key{r.Priority, r.IPv6}] && r.Priority > 0, "priority of a rule")
		rules[key{r.Priority, r.IPv6}] = true
		must((r.Table > 0) == (r.Action == actionLookup), "table of a rule")
		must(!r.From.IsValid() || r.From.Addr().Is6() == r.IPv6, "family of a rule")
		must(!r.To.IsValid() || r.To.Addr().Is6() == r.IPv6, "family of a rule")
	}
	for _, f := range s.Network.Floating {
		must(slices.Contains(f.Hosts, s.Name) && f.TTL > 0 && f.Address.IsValid() && f.Interface != "", "floating address "+f.Name)
		must(s.Has(RoleEtcd) || s.Has(RoleControlPlane), "holder of "+f.Name)
	}
	must(s.Network.Probes.Within > 0, "time of probes")
	must(slices.IsSortedFunc(s.Firewall.Masquerade, func(a, b Masquerade) int { return strings.Compare(a.Name, b.Name) }), "masquerades are sorted")
	for _, m := range s.Firewall.Masquerade {
		must(len(m.From) > 0, "masquerade "+m.Name)
	}
	must(slices.IsSortedFunc(s.Names.Hosts, func(a, b HostsEntry) int { return a.Address.Compare(b.Address) }), "hosts entries are sorted")
	for _, entry := range s.Names.Hosts {
		must(len(entry.Names) > 0, "names of "+entry.Address.String())
	}
	for _, p := range s.Peers {
		if p.WireGuard == nil {
			continue
		}
		for _, c := range p.WireGuard.Clients {
			must(c.PublicKey != "" && len(c.Addresses) > 0, "client "+c.Name)
		}
	}
}

// everyNetworkKey is a fleet that writes every key of the network and the
// firewall.
var everyNetworkKey = map[string]string{
	"cluster.toml": `[cluster]
name = "every"
[kernel.sysctl]
net.ipv6.conf.all.forwarding = 1
[network]
hostname = true
hosts_file = true
[network.hosts]
"192.0.2.9" = ["bastion.example"]
"192.0.2.1" = ["a.example"]
[network.dns]
servers = ["192.0.2.53", "2001:db8::53"]
search = ["example"]
options = ["rotate", "ndots:2"]
[network.wireguard]
interface = "wg1"
range = "10.9.0.0/24"
port = 51821
keepalive = "25s"
mtu = 1400
preshared_keys = "/etc/nodeagent/psk"
[network.floating.web]
address = "192.0.2.100/32"
interface = "br0"
hosts = ["a", "b"]
ttl = "20s"
[network.probes]
names = ["gateway", "wireguard", "vault", "etcd", "api"]
connect = ["192.0.2.9:22"]
within = "45s"
[firewall.zone.public]
interfaces = ["br0", "lan2"]
[firewall.allow.ssh]
ports = [22]
from = ["clients", "host:b"]
interfaces = ["wg1"]
zones = ["public"]
limit = "10/minute"
burst = 7
limit_by = "source"
[firewall.allow.dns]
protocol = "udp"
ports = [53]
limit = "1000/day"
[firewall.forward.web]
ports = [443]
to = ["pods"]
in = ["public"]
out = ["cni0"]
[firewall.forward.mesh]
from = ["wireguard"]
to = ["host:a", "203.0.113.7"]
[firewall.forward.nobody]
protocol = "udp"
from = ["any"]
to = ["203.0.113.0/24"]
[firewall.masquerade.lab]
from = ["172.20.0.0/16"]
except = ["wireguard", "fleet"]
out = ["public", "lan3"]
[drift]
network = "report"
kernel = "repair"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/16"
endpoint = "api.example.org:6443"
[pki]
issuer = "vault"
[pki.vault]
address = "https://vault.example.org"
`,
	"a.toml": `[host]
roles = ["control-plane", "etcd", "worker"]
address = "192.0.2.1"
[wireguard]
address = "10.9.0.1"
public_key = "KqbcxTDZnD79Q427hFIgRyEmggLtyFARPNSvHyClwUU="
endpoint = "192.0.2.1:51821"
[wireguard.client.laptop]
public_key = "9S17Ml8SJfAo93hRg/Afij8HtVyafmi0iinDa8P33Bo="
addresses = ["10.9.0.102", "10.9.0.101/32", "2001:db8:c::/64"]
[network.link.lan0]
match_mac = "02:00:00:00:00:AA"
up = false
mtu = 1500
alt_names = ["uplink", "first"]
master = "bond0"
[network.link.lan1]
match_path = "0000:03:00.0"
master = "bond0"
[network.link.bond0]
kind = "bond"
adopt = true
mac = "02:00:00:00:00:01"
mtu = 1500
master = "br0"
[network.link.bond0.bond]
mode = "802.3ad"
updelay = "200ms"
downdelay = "100ms"
lacp_rate = "fast"
xmit_hash_policy = "layer3+4"
ad_select = "bandwidth"
min_links = 1
[network.link.bond0.port]
pvid = 1
tagged = [30, 20]
untagged = [1]
cost = 4
priority = 8
isolated = false
hairpin = true
learning = true
[network.link.bond1]
kind = "bond"
[network.link.bond1.bond]
mode = "active-backup"
primary = "lan2"
primary_reselect = "better"
fail_over_mac = "active"
arp_interval = "1s"
arp_targets = ["192.0.2.254"]
[network.link.lan2]
master = "bond1"
[network.link.lan3]
master = "red"
[network.link.br0]
kind = "bridge"
addresses = ["192.0.2.1/24"]
[network.link.br0.bridge]
vlan_filtering = true
default_pvid = 0
stp = true
priority = 100
forward_delay = "15s"
hello_time = "2s"
max_age = "20s"
ageing_time = "300s"
multicast_snooping = false
[[network.link.br0.address]]
address = "2001:db8::1/64"
dad = false
preferred_lifetime = "1h"
valid_lifetime = "2h"
[[network.link.br0.address]]
address = "192.0.2.111/24"
scope = "link"
deprecated = true
[network.link."br0.20"]
kind = "vlan"
parent = "br0"
[network.link."br0.20".vlan]
id = 20
protocol = "802.1ad"
[network.link.vx0]
kind = "vxlan"
parent = "br0"
[network.link.vx0.vxlan]
id = 0
port = 8472
local = "192.0.2.1"
remote = "239.1.1.1"
learning = false
ttl = 4
[network.link.mac0]
kind = "macvlan"
parent = "br0"
[network.link.mac0.macvlan]
mode = "private"
[network.link.dummy0]
kind = "dummy"
[network.link.red]
kind = "vrf"
[network.link.red.vrf]
table = 10
[[network.route]]
destination = "default"
table = 254
metric = 5
mtu = 1400
source = "192.0.2.1"
adopt = true
nexthops = [{ via = "192.0.2.254" }, { via = "2001:db8::fe", device = "br0", onlink = true, weight = 3 }]
[[network.route]]
destination = "198.51.100.0/24"
type = "unreachable"
table = 10
[[network.route]]
destination = "default"
via = "fe80::1"
device = "br0"
onlink = true
[[network.rule]]
priority = 100
iif = "br0"
oif = "lan3"
fwmark = 0x10
protocol = "tcp"
source_port = 1024
port = 443
table = 10
suppress_prefixlength = 0
adopt = true
[[network.rule]]
priority = 101
from = "2001:db8::/32"
to = "2001:db8:1::/48"
fwmark = 1
fwmask = 0xff
action = "prohibit"
[[network.rule]]
priority = 102
family = "ipv4"
table = 254
`,
	"b.toml": `[host]
roles = ["etcd", "control-plane"]
[wireguard]
address = "10.9.0.2"
public_key = "4K42TVfUgkoaO9n0M9rzn32oa1AJIgfXAZEV6m8IhW8="
endpoint = "b.example.org:51821"
[network.link.br0]
kind = "bridge"
[kubernetes]
`,
}

func to[T any](v T) *T { return &v }

// Every key of the network and the firewall arrives where it belongs.
func TestEveryNetworkKey(t *testing.T) {
	fleet := mustLoad(t, everyNetworkKey)
	a, b := mustHost(t, fleet, "a"), mustHost(t, fleet, "b")
	for _, s := range fleet.Hosts {
		checkInvariants(t, s)
	}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	check := func(what string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(want, got, netipValues); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("links", []Link{
		{Name: "bond0", Kind: LinkBond, Adopt: true, MAC: "02:00:00:00:00:01", MTU: 1500, Master: "br0", Bond: &Bond{
			Mode: "802.3ad", MIIMon: 100 * time.Millisecond, UpDelay: 200 * time.Millisecond, DownDelay: 100 * time.Millisecond,
			LACPRate: "fast", XmitHashPolicy: "layer3+4", AdSelect: "bandwidth", MinLinks: 1,
		}, Port: &BridgePort{PVID: 1, Tagged: []int{20, 30}, Untagged: []int{1}, Cost: to(4), Priority: to(8), Isolated: to(false), Hairpin: to(true), Learning: to(true)}},
		{Name: "bond1", Kind: LinkBond, Bond: &Bond{
			Mode: "active-backup", Primary: "lan2", PrimaryReselect: "better", FailOverMAC: "active",
			ARPInterval: time.Second, ARPTargets: []netip.Addr{addr("192.0.2.254")},
		}},
		{Name: "br0", Kind: LinkBridge, Addresses: []Address{
			{Prefix: prefix("192.0.2.1/24")},
			{Prefix: prefix("2001:db8::1/64"), NoDAD: true, Preferred: time.Hour, Valid: 2 * time.Hour},
			{Prefix: prefix("192.0.2.111/24"), Scope: "link", Deprecated: true},
		}, Bridge: &Bridge{
			VLANFiltering: to(true), DefaultPVID: to(0), STP: to(true), Priority: to(100), ForwardDelay: to(15 * time.Second),
			HelloTime: to(2 * time.Second), MaxAge: to(20 * time.Second), Ageing: to(300 * time.Second), MulticastSnooping: to(false),
		}},
		{Name: "br0.20", Kind: LinkVLAN, Parent: "br0", VLAN: &VLAN{ID: 20, Protocol: "802.1ad"}},
		{Name: "dummy0", Kind: LinkDummy},
		{Name: "lan0", Kind: LinkPhysical, Match: LinkMatch{MAC: "02:00:00:00:00:aa"}, Down: true, MTU: 1500, AltNames: []string{"first", "uplink"}, Master: "bond0"},
		{Name: "lan1", Kind: LinkPhysical, Match: LinkMatch{Path: "0000:03:00.0"}, Master: "bond0"},
		{Name: "lan2", Kind: LinkPhysical, Master: "bond1"},
		{Name: "lan3", Kind: LinkPhysical, Master: "red"},
		{Name: "mac0", Kind: LinkMacvlan, Parent: "br0", Macvlan: &Macvlan{Mode: "private"}},
		{Name: "red", Kind: LinkVRF, VRF: &VRF{Table: 10}},
		{Name: "vx0", Kind: LinkVXLAN, Parent: "br0", VXLAN: &VXLAN{ID: 0, Port: 8472, Local: addr("192.0.2.1"), Remote: addr("239.1.1.1"), Learning: to(false), TTL: 4}},
	}, a.Network.Links)
	check("routes", []Route{
		{
			Destination: prefix("0.0.0.0/0"), Type: RouteUnicast, Metric: 5, MTU: 1400, Source: addr("192.0.2.1"), Adopt: true,
			Nexthops: []Nexthop{{Via: addr("192.0.2.254"), Weight: 1}, {Via: addr("2001:db8::fe"), Device: "br0", OnLink: true, Weight: 3}},
		},
		{Destination: prefix("198.51.100.0/24"), Type: RouteUnreachable, Table: 10},
		{Destination: prefix("::/0"), Type: RouteUnicast, Via: addr("fe80::1"), Device: "br0", OnLink: true},
	}, a.Network.Routes)
	both := Rule{Priority: 100, Inbound: "br0", Outbound: "lan3", Mark: 0x10, Mask: 1<<32 - 1, Protocol: "tcp", SourcePort: 1024, Port: 443, Table: 10, Action: "lookup", SuppressPrefixLength: to(0), Adopt: true}
	six := both
	six.IPv6 = true
	check("rules", []Rule{
		both, six,
		{Priority: 101, IPv6: true, From: prefix("2001:db8::/32"), To: prefix("2001:db8:1::/48"), Mark: 1, Mask: 0xff, Action: "prohibit"},
		{Priority: 102, Table: 254, Action: "lookup"},
	}, a.Network.Rules)
	laptop := []WireGuardClient{{Name: "laptop", PublicKey: "9S17Ml8SJfAo93hRg/Afij8HtVyafmi0iinDa8P33Bo=", Addresses: []netip.Prefix{prefix("10.9.0.101/32"), prefix("10.9.0.102/32"), prefix("2001:db8:c::/64")}}}
	check("WireGuard", &WireGuard{
		Interface: "wg1", Address: prefix("10.9.0.1/24"), Port: 51821, MTU: 1400, Keepalive: 25 * time.Second,
		PublicKey: "KqbcxTDZnD79Q427hFIgRyEmggLtyFARPNSvHyClwUU=", Clients: laptop, PresharedKeys: "/etc/nodeagent/psk",
	}, a.Network.WireGuard)
	check("the peer of b", laptop, b.Peers[0].WireGuard.Clients)
	web := []Floating{{Name: "web", Address: prefix("192.0.2.100/32"), Interface: "br0", Hosts: []string{"a", "b"}, TTL: 20 * time.Second}}
	check("floating of a", web, a.Network.Floating)
	check("floating of b", web, b.Network.Floating)
	check("probes", Probes{Names: []string{"gateway", "wireguard", "vault", "etcd", "api"}, Connect: []string{"192.0.2.9:22"}, Within: 45 * time.Second}, a.Network.Probes)
	check("names", Names{
		Hostname: "a", Servers: []netip.Addr{addr("192.0.2.53"), addr("2001:db8::53")}, Search: []string{"example"}, Options: []string{"rotate", "ndots:2"},
		Hosts: []HostsEntry{
			{addr("10.9.0.1"), []string{"a.mesh"}},
			{addr("10.9.0.2"), []string{"b"}},
			{addr("192.0.2.1"), []string{"a", "a.example"}},
			{addr("192.0.2.9"), []string{"bastion.example"}},
		},
	}, a.Names)
	check("drift", map[string]Drift{"network": DriftReport, "kernel": DriftRepair}, a.Drift)
	check("firewall", Firewall{
		Enabled: true,
		Allow: []Allow{
			{Name: "dns", Protocol: "udp", Ports: []uint16{53}, Limit: &Limit{Count: 1000, Per: 24 * time.Hour, Burst: 5}},
			{
				Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, Interfaces: []string{"wg1", "br0", "lan2"},
				From:  []netip.Prefix{prefix("10.9.0.2/32"), prefix("10.9.0.101/32"), prefix("10.9.0.102/32"), prefix("2001:db8:c::/64")},
				Limit: &Limit{Count: 10, Per: time.Minute, Burst: 7, BySource: true},
			},
			{Name: "wireguard", Protocol: "udp", Ports: []uint16{51821}},
		},
		Forward: &Forward{Allow: []ForwardAllow{
			{Name: "mesh", From: []netip.Prefix{prefix("10.9.0.0/24")}, To: []netip.Prefix{prefix("10.9.0.1/32"), prefix("192.0.2.1/32"), prefix("203.0.113.7/32")}},
			{Name: "nobody", Protocol: "udp", To: []netip.Prefix{prefix("203.0.113.0/24")}},
			{Name: "web", Protocol: "tcp", Ports: []uint16{443}, To: []netip.Prefix{prefix("10.244.0.0/16")}, Inbound: []string{"br0", "lan2"}, Outbound: []string{"cni0"}},
		}},
		Masquerade: []Masquerade{
			{Name: "lab", From: []netip.Prefix{prefix("172.20.0.0/16")}, Except: []netip.Prefix{prefix("10.9.0.0/24"), prefix("10.9.0.2/32")}, Outbound: []string{"br0", "lan2", "lan3"}},
			{Name: "pods", From: []netip.Prefix{prefix("10.244.0.0/16")}, Except: []netip.Prefix{prefix("10.9.0.0/24"), prefix("10.244.0.0/16"), prefix("192.0.2.1/32")}},
		},
	}, a.Firewall)
	check("b's sysctl", map[string]string{"fs.inotify.max_user_instances": "8192", "net.ipv6.conf.all.forwarding": "1"}, b.Kernel.Sysctls)
}

// The masquerade of pods is replaced by one of its name, and is there for
// workers whose pod addresses nodeagent gives only.
func TestMasqueradeOfPods(t *testing.T) {
	names := func(cluster, roles string) (names []string) {
		fleet := mustLoad(t, map[string]string{
			"cluster.toml": plainCluster + "[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/16\"\nservice_range = \"10.96.0.0/16\"\n" + cluster,
			"a.toml":       "[host]\nroles = [" + roles + "]\naddress = \"192.0.2.1\"\n",
		})
		s := fleet.Hosts[0]
		for _, m := range s.Firewall.Masquerade {
			names = append(names, m.Name+" from "+m.From[0].String())
		}
		if s.Firewall.Enabled != strings.Contains(cluster, "firewall") {
			t.Errorf("the firewall is enabled: %v", s.Firewall.Enabled)
		}
		return names
	}
	for _, row := range []struct {
		cluster, roles string
		want           []string
	}{
		{"", `"control-plane", "etcd", "worker"`, []string{"pods from 10.244.0.0/16"}},
		{"", `"control-plane", "etcd"`, nil},
		{"cni = \"none\"\n", `"control-plane", "etcd", "worker"`, nil},
		{"[firewall.masquerade.pods]\nfrom = [\"10.244.9.0/24\"]\n", `"control-plane", "etcd", "worker"`, []string{"pods from 10.244.9.0/24"}},
		// Written so, it is nobody's: the fleet has one host.
		{"[firewall.masquerade.pods]\nfrom = [\"fleet\"]\n", `"control-plane", "etcd", "worker"`, nil},
	} {
		if diff := cmp.Diff(row.want, names(row.cluster, row.roles)); diff != "" {
			t.Errorf("%s with roles %s (-want +got):\n%s", row.cluster, row.roles, diff)
		}
	}
}

// Probes that ask nothing of a host are left out there.
func TestProbesByRole(t *testing.T) {
	fleet, err := Load("fleets/hetzner-ha")
	if err != nil {
		t.Fatal(err)
	}
	if got := mustHost(t, fleet, "bastion").Network.Probes.Names; !slices.Equal(got, []string{"gateway", "wireguard"}) {
		t.Errorf("the bastion probes %v", got)
	}
	if got := mustHost(t, fleet, "fsn1").Network.Probes.Names; len(got) != 5 {
		t.Errorf("fsn1 probes %v", got)
	}
}

// In hetzner-ha nothing but 443 and the mesh's own port is open from outside of
// the mesh, and ssh only to the bastion and to clients.
func TestHetznerHA(t *testing.T) {
	fleet, err := Load("fleets/hetzner-ha")
	if err != nil {
		t.Fatal(err)
	}
	mesh := netip.MustParsePrefix("10.41.0.0/24")
	for _, s := range fleet.Hosts {
		var open []uint16
		for _, rule := range s.Firewall.Allow {
			inside := slices.Equal(rule.Interfaces, []string{"wg0"}) && len(rule.From) > 0
			for _, from := range rule.From {
				inside = inside && mesh.Contains(from.Addr())
			}
			if !inside {
				open = append(open, rule.Ports...)
			}
		}
		want := []uint16{51820}
		if s.Name != "bastion" {
			want = []uint16{443, 51820}
		}
		if !slices.Equal(open, want) || !s.Firewall.Enabled {
			t.Errorf("%s: open from outside are %v, want %v", s.Name, open, want)
		}
		if s.Name == "bastion" {
			if len(s.Network.WireGuard.Clients) != 2 || s.Kernel.Sysctls["net.ipv4.ip_forward"] != "1" || s.Firewall.Forward == nil || len(s.Network.Floating) != 0 {
				t.Errorf("the bastion is %+v", s)
			}
			continue
		}
		if len(s.Network.Floating) != 1 || s.Address != s.Network.WireGuard.Address.Addr() || len(s.Peers) != 3 || len(s.Network.Rules) != 1 {
			t.Errorf("%s is %+v", s.Name, s)
		}
	}
}
