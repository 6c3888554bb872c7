package netcfg

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// reachHost is a rented server: its address and default route are somebody
// else's, over eth0.
func reachHost() Surroundings {
	prefix := netip.MustParsePrefix
	return Surroundings{
		links:     []pathLink{{name: "lo"}, {name: "eth0"}},
		addresses: []pathAddress{{link: "eth0", prefix: prefix("198.51.100.10/24")}},
		routes: []pathRoute{
			{table: hosts.MainTable, to: prefix("198.51.100.0/24"), hops: []string{"eth0"}, onLink: true, kernel: true},
			{table: hosts.MainTable, to: prefix("0.0.0.0/0"), hops: []string{"eth0"}},
		},
		rules: []pathRule{{priority: 32766, table: hosts.MainTable}, {priority: 32766, six: true, table: hosts.MainTable}},
	}
}

func reachMesh(allowed ...string) *WireGuard {
	w := &WireGuard{Interface: "wg0", Address: netip.MustParsePrefix("10.9.0.1/24"), Port: 51820}
	peer := WireGuardPeer{Name: "venus", Endpoint: "203.0.113.5:51820"}
	for _, a := range allowed {
		peer.AllowedIPs = append(peer.AllowedIPs, netip.MustParsePrefix(a))
	}
	w.Peers = []WireGuardPeer{peer}
	return w
}

func TestReach(t *testing.T) {
	end := netip.MustParseAddrPort
	ssh := Way{Name: "the SSH session", Inbound: true, Protocol: "tcp", Local: end("198.51.100.10:22"), Remote: end("203.0.113.9:50000")}
	meshSSH := Way{Name: "the SSH session", Inbound: true, Protocol: "tcp", Local: end("10.9.0.1:22"), Remote: end("10.9.0.2:50000")}
	vault := Way{Name: "Vault", Protocol: "tcp", Remote: end("203.0.113.80:8200")}
	endpoint := Way{Name: "WireGuard to venus", Protocol: "udp", Remote: end("203.0.113.5:51820"), Tunnel: "wg0"}
	route := func(to, via, device string) Route {
		r := Route{Destination: netip.MustParsePrefix(to), Device: device, Protocol: RouteProtocol}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return r
	}
	firewall := func(allow ...hosts.Allow) *Firewall {
		return wantFirewall(&hosts.Spec{Firewall: hosts.Firewall{Enabled: true, Allow: allow}})
	}
	onMesh := hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, Interfaces: []string{"wg0"}}
	lost := func() Surroundings { // the host without its default route, by us
		now := reachHost()
		now.routes[1].own = true
		return now
	}
	ours := func() Surroundings { // the address was added by us
		now := reachHost()
		now.addresses[0].own = true
		return now
	}
	for _, tc := range []struct {
		name string
		want State
		now  Surroundings
		way  Way
		kind CutKind // "" for none
		says string
		by   CutBy
	}{
		{"nothing wanted, nothing cut", State{}, reachHost(), ssh, "", "", CutBy{}},
		{"ssh over the mesh alone cuts ssh over the internet", State{Firewall: firewall(onMesh), WireGuard: reachMesh("10.9.0.2/32")}, reachHost(), ssh, CutFirewall, "no rule of the firewall accepts tcp 22 from 203.0.113.9 on eth0; connections that are open stay, a new one would be refused", CutBy{Firewall: true}},
		{"and leaves ssh over the mesh", State{Firewall: firewall(onMesh), WireGuard: reachMesh("10.9.0.2/32")}, reachHost(), meshSSH, "", "", CutBy{}},
		{"ssh from others only", State{Firewall: firewall(hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})}, reachHost(), ssh, CutFirewall, "no rule", CutBy{Firewall: true}},
		{"ssh from anywhere", State{Firewall: firewall(hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}})}, reachHost(), ssh, "", "", CutBy{}},
		{"outbound is not the firewall's", State{Firewall: firewall()}, reachHost(), vault, "", "", CutBy{}},
		{"the address goes", State{}, ours(), ssh, CutAddress, "no longer have the address 198.51.100.10", CutBy{}},
		{"the default route goes", State{}, lost(), vault, CutNoRoute, "no route would lead to 203.0.113.80", CutBy{}},
		{"and with it the answer", State{}, lost(), ssh, CutNoRoute, "no route would lead to 203.0.113.9", CutBy{}},
		{"another takes its place", State{Routes: []Route{route("0.0.0.0/0", "198.51.100.1", "eth0")}}, lost(), vault, "", "", CutBy{}},
		{"of a link that is not there", State{Links: []Link{{Name: "eth1", Kind: hosts.LinkPhysical}}, Routes: []Route{route("203.0.113.0/24", "", "eth1")}}, reachHost(), vault, "", "", CutBy{}},
		{"everything into the tunnel", State{WireGuard: reachMesh("10.9.0.2/32"), Routes: []Route{route("203.0.113.0/24", "", "wg0")}}, reachHost(), vault, CutNoPeer, "the route to 203.0.113.0/24 leads into wg0, none of whose peers is allowed 203.0.113.80", CutBy{Route: netip.MustParsePrefix("203.0.113.0/24"), Table: hosts.MainTable}},
		{"and a peer takes it", State{WireGuard: reachMesh("10.9.0.2/32", "203.0.113.0/24"), Routes: []Route{route("203.0.113.0/24", "", "wg0")}}, reachHost(), vault, "", "", CutBy{}},
		{"the endpoint through its own tunnel", State{WireGuard: reachMesh("10.9.0.2/32", "203.0.113.0/24"), Routes: []Route{route("203.0.113.0/24", "", "wg0")}}, reachHost(), endpoint, CutOwnTunnel, "wg0, whose own packets to 203.0.113.5 they would be", CutBy{Route: netip.MustParsePrefix("203.0.113.0/24"), Table: hosts.MainTable}},
		{"the endpoint within the mesh", State{WireGuard: reachMesh("10.9.0.2/32")}, reachHost(), Way{Name: "WireGuard to venus", Protocol: "udp", Remote: end("10.9.0.2:51820"), Tunnel: "wg0"}, CutOwnTunnel, "the route to 10.9.0.0/24 leads into wg0", CutBy{WireGuard: true}},
		{"a longer prefix of somebody else's saves it", State{WireGuard: reachMesh("203.0.0.0/16"), Routes: []Route{route("203.0.0.0/16", "", "wg0")}}, func() Surroundings {
			now := reachHost()
			now.routes = append(now.routes, pathRoute{table: hosts.MainTable, to: netip.MustParsePrefix("203.0.113.5/32"), hops: []string{"eth0"}})
			return now
		}(), endpoint, "", "", CutBy{}},
		{"a mark may lead elsewhere", State{WireGuard: reachMesh("203.0.0.0/16"), Routes: []Route{route("203.0.0.0/16", "", "wg0")}}, func() Surroundings {
			now := reachHost()
			now.rules = append(now.rules, pathRule{priority: 10, table: 100, marked: true})
			now.routes = append(now.routes, pathRoute{table: 100, to: netip.MustParsePrefix("0.0.0.0/0"), hops: []string{"eth0"}})
			return now
		}(), endpoint, "", "", CutBy{}},
		{"what is not known is not claimed", State{Firewall: firewall()}, reachHost(), Way{Name: "x", Inbound: true, Protocol: "tcp", Local: end("198.51.100.10:22")}, "", "", CutBy{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have := State{}
			cuts := Reach(tc.want, have, tc.now, []Way{tc.way})
			if tc.kind == "" {
				if len(cuts) > 0 {
					t.Fatalf("%s", cuts[0])
				}
				return
			}
			if len(cuts) != 1 {
				t.Fatalf("%d cuts, want one of kind %s", len(cuts), tc.kind)
			}
			if c := cuts[0]; c.Kind != tc.kind || !strings.Contains(c.String(), tc.says) || c.By != tc.by {
				t.Errorf("%q (%s, by %+v), want %s %q by %+v", c, c.Kind, c.By, tc.kind, tc.says, tc.by)
			}
		})
	}
}

// A way that is cut already is nothing that the change takes away.
func TestReachTellsWhatIsCutAlready(t *testing.T) {
	now := reachHost()
	now.routes = now.routes[:1]
	cuts := Reach(State{}, State{}, now, []Way{{Name: "Vault", Protocol: "tcp", Remote: netip.MustParseAddrPort("203.0.113.80:8200")}})
	if len(cuts) != 1 || !cuts[0].Already || !strings.Contains(cuts[0].String(), "is cut and would stay so") {
		t.Errorf("%v", cuts)
	}
}
