package agent

import (
	"net/netip"
	"slices"
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
	for _, w := range slices.Concat(resolveWays(t.Context(), waysOf(spec, "198.51.100.7 50000 10.9.0.1 22"))...) {
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

func TestPlaceOf(t *testing.T) {
	to := netip.MustParsePrefix("203.0.113.0/24")
	spec := &hosts.Spec{
		Network: hosts.Network{
			Routes: []hosts.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0")}, {Destination: to}, {Destination: to, Table: 7}},
			Rules:  []hosts.Rule{{Priority: 5}},
		},
		Defined: map[string]string{
			"network.route": "a.toml:1", "network.route[1]": "a.toml:2", "network.rule[0]": "a.toml:3",
			"network.wireguard": "cluster.toml:4", "firewall": "cluster.toml:5", "kernel.sysctl.net.ipv6.conf.all.forwarding": "cluster.toml:6",
		},
	}
	for want, by := range map[string]netcfg.CutBy{
		"a.toml:2":       {Route: to, Table: hosts.MainTable},
		"a.toml:1":       {Route: to, Table: 7}, // merged lists may lack their lines
		"a.toml:3":       {Rule: 5},
		"cluster.toml:4": {WireGuard: true},
		"cluster.toml:5": {Firewall: true},
		"cluster.toml:6": {Sysctl: "net.ipv6.conf.all.forwarding"},
		"":               {},
	} {
		if _, got := placeOf(spec, by); got != want {
			t.Errorf("%+v: %q, want %q", by, got, want)
		}
	}
}

// The ways to a host that is the API endpoint itself.
func TestAPIWays(t *testing.T) {
	addr := netip.MustParseAddr
	spec := &hosts.Spec{
		Roles: []hosts.Role{hosts.RoleControlPlane}, Address: addr("10.9.0.1"),
		Peers: []hosts.Peer{
			{Name: "worker", Roles: []hosts.Role{hosts.RoleWorker}, Address: addr("10.9.0.3")},
			{Name: "bastion", Address: addr("10.9.0.4")},
		},
	}
	for endpoint, want := range map[string]string{
		"10.9.0.1:443":        "the way to this host's API endpoint from worker: 10.9.0.3:0 to 10.9.0.1:443",
		"203.0.113.6:6443":    "",
		"api.example.org:443": "",
		"":                    "",
	} {
		spec.Kubernetes.Endpoint = endpoint
		var got string
		for _, w := range apiWays(spec) {
			got += w.Name + ": " + w.Remote.String() + " to " + w.Local.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", endpoint, got, want)
		}
	}
}

// A name is cut off when the last of its addresses is.
func TestJudgeNames(t *testing.T) {
	way := func(a string) netcfg.Way {
		return netcfg.Way{Name: "the way to Vault at vault", Protocol: "tcp", Remote: netip.MustParseAddrPort(a)}
	}
	first, second := way("192.0.2.1:443"), way("[2001:db8::1]:443")
	open := func(w netcfg.Way) netcfg.Cut {
		return netcfg.Cut{Way: w, Why: "no route to " + w.Remote.Addr().String()}
	}
	shut := func(w netcfg.Way) netcfg.Cut { c := open(w); c.Already = true; return c }
	for _, tc := range []struct {
		name  string
		found []netcfg.Cut
		want  []Cut
	}{
		{"none", nil, nil},
		{"one", []netcfg.Cut{open(second)}, []Cut{{Partly: true, Text: "the way to Vault at vault would lose 1 of its 2 addresses: no route to 2001:db8::1"}}},
		{"one that is lost already", []netcfg.Cut{shut(second)}, nil},
		{"all", []netcfg.Cut{open(first), open(second)}, []Cut{{Text: "the way to Vault at vault would be cut: no route to 192.0.2.1; so are the others of its 2 addresses"}}},
		{"the last", []netcfg.Cut{shut(first), open(second)}, []Cut{{Text: "the way to Vault at vault would be cut: no route to 2001:db8::1; so are the others of its 2 addresses"}}},
		{"all that are lost already", []netcfg.Cut{shut(first), shut(second)}, []Cut{{Already: true, Text: "the way to Vault at vault is cut and would stay so: no route to 192.0.2.1; so are the others of its 2 addresses"}}},
	} {
		got := judge(&hosts.Spec{}, tc.found, [][]netcfg.Way{{first, second}})
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		for _, c := range got {
			if c.Refuses() != (len(tc.found) == 2 && !c.Already) {
				t.Errorf("%s: refuses %v", tc.name, c.Refuses())
			}
		}
	}
}
