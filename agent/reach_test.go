package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/netcfg"
)

func TestWaysOf(t *testing.T) {
	addr := netip.MustParseAddr
	spec := &hosts.Spec{
		Roles: []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd}, Address: addr("10.9.0.1"),
		Etcd: hosts.Etcd{PeerPort: 2380},
		PKI:  hosts.PKI{Vault: &hosts.Vault{Address: "https://203.0.113.80:8200"}},
		Peers: []hosts.Peer{
			{
				Name: "venus", Roles: []hosts.Role{hosts.RoleEtcd}, Address: addr("10.9.0.2"),
				WireGuard: &hosts.WireGuardPeer{PublicKey: "k", Endpoint: "[2001:db8::2]:51820"},
			},
			{Name: "worker", Roles: []hosts.Role{hosts.RoleWorker}, Address: addr("10.9.0.3")},
		},
		Network: hosts.Network{WireGuard: &hosts.WireGuard{Interface: "wg0"}},
	}
	spec.Kubernetes.Endpoint = "203.0.113.6:6443"
	var got []string
	for _, w := range resolveWays(t.Context(), waysOf(spec, "198.51.100.7 50000 10.9.0.1 22")) {
		direction := "out"
		if w.Inbound {
			direction = "in"
		}
		got = append(got, w.Name+"|"+direction+" "+w.Protocol+" "+w.Local.String()+" "+w.Remote.String()+" "+w.Tunnel)
	}
	want := []string{
		"the SSH session from 198.51.100.7|in tcp 10.9.0.1:22 198.51.100.7:50000 ",
		"the way to etcd on venus|out tcp invalid AddrPort 10.9.0.2:2380 ",
		"the way to this host's etcd from venus|in tcp 10.9.0.1:2380 10.9.0.2:0 ",
		"the way to Vault at 203.0.113.80:8200|out tcp invalid AddrPort 203.0.113.80:8200 ",
		"the way to the API endpoint 203.0.113.6:6443|out tcp invalid AddrPort 203.0.113.6:6443 ",
		"WireGuard's way to venus at [2001:db8::2]:51820|out udp invalid AddrPort [2001:db8::2]:51820 wg0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSessionWay(t *testing.T) {
	for session, want := range map[string]string{
		"":                                 "",
		"198.51.100.7 1 192.0.2.1":         "",
		"x 1 192.0.2.1 22":                 "",
		"198.51.100.7 1 192.0.2.1 99999":   "",
		"2001:db8::7 5 2001:db8::1 22":     "[2001:db8::7]:5",
		"fe80::1%lan0 5 fe80::2%lan0 2222": "[fe80::1%lan0]:5",
	} {
		got := ""
		if w, ok := sessionWay(session); ok {
			got = w.Remote.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", session, got, want)
		}
	}
}

func TestLineOf(t *testing.T) {
	to := netip.MustParsePrefix("203.0.113.0/24")
	spec := &hosts.Spec{
		Network: hosts.Network{
			Routes: []hosts.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0")}, {Destination: to}, {Destination: to, Table: 7}},
			Rules:  []hosts.Rule{{Priority: 5}},
		},
		Defined: map[string]string{
			"network.route": "a.toml:1", "network.route[1]": "a.toml:2", "network.rule[0]": "a.toml:3",
			"network.wireguard": "cluster.toml:4", "firewall": "cluster.toml:5",
		},
	}
	for want, by := range map[string]netcfg.CutBy{
		"a.toml:2":       {Route: to, Table: hosts.MainTable},
		"a.toml:1":       {Route: to, Table: 7}, // merged lists may lack their lines
		"a.toml:3":       {Rule: 5},
		"cluster.toml:4": {WireGuard: true},
		"cluster.toml:5": {Firewall: true},
		"":               {},
	} {
		if got := lineOf(spec, by); got != want {
			t.Errorf("%+v: %q, want %q", by, got, want)
		}
	}
}
