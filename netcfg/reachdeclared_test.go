package netcfg

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// What a fleet alone tells of the ways of its hosts.
func TestReachDeclared(t *testing.T) {
	end, prefix, addr := netip.MustParseAddrPort, netip.MustParsePrefix, netip.MustParseAddr
	vault := Way{Name: "Vault", Protocol: "tcp", Remote: end("203.0.113.80:8200")}
	vault6 := Way{Name: "Vault", Protocol: "tcp", Remote: end("[2001:db8:5::80]:8200")}
	neighbour := Way{Name: "etcd on venus", Protocol: "tcp", Remote: end("198.51.100.20:2380")}
	endpoint := Way{Name: "WireGuard to venus", Protocol: "udp", Remote: end("203.0.113.5:51820"), Tunnel: "wg0"}
	etcd := Way{Name: "etcd from venus", Inbound: true, Protocol: "tcp", Local: end("10.9.0.1:2380"), Remote: end("10.9.0.2:0")}
	session := Way{Name: "the session", Inbound: true, Protocol: "tcp", Local: end("198.51.100.10:22"), Remote: end("203.0.113.9:50000")}

	eth0 := hosts.Link{Name: "eth0", Kind: hosts.LinkPhysical, Addresses: []hosts.Address{{Prefix: prefix("198.51.100.10/24")}}}
	out := hosts.Route{Destination: prefix("0.0.0.0/0"), Via: addr("198.51.100.1"), Device: "eth0"}
	discard := func(to string) hosts.Route {
		return hosts.Route{Destination: prefix(to), Type: hosts.RouteBlackhole}
	}
	into := func(to, device string) hosts.Route { return hosts.Route{Destination: prefix(to), Device: device} }
	network := func(links []hosts.Link, routes ...hosts.Route) hosts.Spec {
		return hosts.Spec{Network: hosts.Network{Links: links, Routes: routes}}
	}
	closed := func(spec hosts.Spec, allow ...hosts.Allow) hosts.Spec {
		spec.Firewall = hosts.Firewall{Enabled: true, Allow: allow}
		return spec
	}
	ruled := func(spec hosts.Spec, rules ...hosts.Rule) hosts.Spec {
		spec.Network.Rules = rules
		return spec
	}
	eth := []hosts.Link{eth0}
	for _, tc := range []struct {
		name string
		spec hosts.Spec
		mesh *WireGuard
		way  Way
		kind CutKind // "" for none
		says string
	}{
		{"nothing is declared", hosts.Spec{}, nil, vault, "", ""},
		{"an address without a route says nothing of routes", network(eth), nil, vault, "", ""},
		{"the fleet says all, and a way out", network(eth, out), nil, vault, "", ""},
		{"of one family, not of the other", network(eth, out), nil, vault6, "", ""},
		{"a range is discarded, there may be others' routes within it", network(nil, discard("203.0.113.0/24")), nil, vault, "", ""},
		{"a range is discarded, and the fleet says all", network(eth, out, discard("203.0.113.0/24")), nil, vault, CutRefused, "the blackhole route to 203.0.113.0/24 discards what is sent to 203.0.113.80"},
		{"the very address is discarded", network(nil, discard("203.0.113.80/32")), nil, vault, CutRefused, "the blackhole route to 203.0.113.80/32"},
		{"the network of a link is longer than what is discarded", network(eth, out, discard("198.51.0.0/16")), nil, neighbour, "", ""},
		{"a longer one is discarded", network(eth, out, discard("198.51.100.16/28")), nil, neighbour, CutRefused, "the blackhole route to 198.51.100.16/28"},
		{"a rule discards", ruled(network(nil), hosts.Rule{Priority: 10, To: prefix("203.0.113.0/24"), Action: "prohibit"}), nil, vault, CutRefused, "the policy rule 10 discards"},
		{"a rule asks a table that others fill", ruled(network(eth, out, discard("203.0.113.0/24")), hosts.Rule{Priority: 10, To: prefix("203.0.113.0/24"), Table: 77}), nil, vault, "", ""},
		{"a rule asks a table that discards", ruled(network(eth, out, hosts.Route{Destination: prefix("203.0.113.80/32"), Type: hosts.RouteUnreachable, Table: 77}), hosts.Rule{Priority: 10, Table: 77}), nil, vault, CutRefused, "the unreachable route to 203.0.113.80/32"},
		{"an endpoint through its own tunnel", network(eth, out, into("203.0.113.0/24", "wg0")), reachMesh("10.9.0.2/32", "203.0.113.0/24"), endpoint, CutOwnTunnel, "the route to 203.0.113.0/24 leads into wg0, whose own packets to 203.0.113.5 they would be"},
		{"or perhaps over a route of others", network(nil, into("203.0.113.0/24", "wg0")), reachMesh("10.9.0.2/32", "203.0.113.0/24"), endpoint, "", ""},
		{"into the mesh to nobody", network(eth, out, into("203.0.113.0/24", "wg0")), reachMesh("10.9.0.2/32"), vault, CutNoPeer, "none of whose peers is allowed 203.0.113.80"},
		{"the firewall closes a port to a peer", closed(network(nil)), reachMesh("10.9.0.2/32"), etcd, CutFirewall, "no rule of the firewall accepts tcp 2380 from 10.9.0.2 on wg0"},
		{"or opens it on another link", closed(network(eth), hosts.Allow{Name: "etcd", Protocol: "tcp", Ports: []uint16{2380}, Interfaces: []string{"eth0"}}), reachMesh("10.9.0.2/32"), etcd, CutFirewall, "on wg0"},
		{"or opens it", closed(network(eth), hosts.Allow{Name: "etcd", Protocol: "tcp", Ports: []uint16{2380}, Interfaces: []string{"wg0"}}), reachMesh("10.9.0.2/32"), etcd, "", ""},
		{"a session from where no rule lets it in", closed(network(nil), hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, From: []netip.Prefix{prefix("192.0.2.0/24")}}), nil, session, CutFirewall, "tcp 22 from 203.0.113.9;"},
		{"a session by a link that may be the rule's", closed(network(nil), hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, Interfaces: []string{"eth7"}}), nil, session, "", ""},
		{"a session by a link that is not", closed(network(eth, out), hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, Interfaces: []string{"eth7"}}), nil, session, CutFirewall, "on eth0"},
		{"an address that is not declared stays", network(nil), nil, session, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := Want(&tc.spec)
			want.WireGuard = tc.mesh
			ways := []Way{tc.way}
			cuts := Reach(want, State{}, Declared(want, []netip.Addr{tc.way.Local.Addr()}, ways), ways)
			switch {
			case tc.kind == "" && len(cuts) == 0:
			case len(cuts) != 1 || cuts[0].Kind != tc.kind || cuts[0].Already || !strings.Contains(cuts[0].String(), tc.says):
				t.Errorf("%v, want %q %q", cuts, tc.kind, tc.says)
			}
		})
	}
}
