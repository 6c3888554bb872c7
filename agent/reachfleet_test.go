package agent

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

// cutFleet is two hosts in a mesh with etcd, to which more may be added.
func cutFleet(t *testing.T, cluster, venus string) *hosts.Fleet {
	t.Helper()
	files := fstest.MapFS{
		"cluster.toml": {Data: []byte(`[cluster]
name = "two"
[pki]
issuer = "vault"
[pki.vault]
address = "https://203.0.113.80:8200"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
endpoint = "10.9.0.1:6443"
[network.wireguard]
range = "10.9.0.0/24"
` + cluster)},
		"mars.toml": {Data: []byte(`[host]
roles = ["control-plane", "etcd"]
[wireguard]
address = "10.9.0.1"
endpoint = "198.51.100.1:51820"
public_key = "` + testKey('m') + `"
`)},
		"venus.toml": {Data: []byte(`[host]
roles = ["etcd", "worker"]
[wireguard]
address = "10.9.0.2"
endpoint = "198.51.100.2:51820"
public_key = "` + testKey('v') + `"
` + venus)},
	}
	fleet, err := hosts.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

// testKey is a public key of WireGuard in base64, 43 letters and a sign.
func testKey(letter byte) string {
	key := make([]byte, 43)
	for i := range key {
		key[i] = letter
	}
	key[42] = 'A' // the last two bits are none of the key's
	return string(key) + "="
}

func TestFleetCuts(t *testing.T) {
	const eth0 = "[network.link.eth0]\naddresses = [\"198.51.100.2/24\"]\n"
	const out = "[[network.route]]\ndestination = \"default\"\nvia = \"198.51.100.254\"\n"
	closed := "[firewall.allow.ssh]\nports = [22]\nfrom = [\"192.0.2.0/24\"]\n"
	session := Session{Connection: "203.0.113.9 50000 10.9.0.2 22"}
	for _, tc := range []struct {
		name           string
		cluster, venus string
		session        Session
		want           []string
	}{
		{"nothing is cut", "", "", session, nil},
		{"a firewall lets etcd and the API in by itself", closed, "", Session{}, nil},
		{
			"IPv6 is switched off", "[kernel.sysctl]\n\"net.ipv6.conf.all.disable_ipv6\" = 1\n", "",
			Session{"2001:db8::9 50000 2001:db8::2 22", "venus"},
			[]string{
				"cluster.toml:15: kernel.sysctl.net.ipv6.conf.all.disable_ipv6: on the host venus the SSH session from 2001:db8::9 would be cut: with net.ipv6.conf.all.disable_ipv6 = 1 the host would no longer have the address 2001:db8::2",
			},
		},
		{
			"a session that no rule lets in, on the host that has its address", "", closed + "[firewall.allow.etcd]\nports = [2380]\nfrom = [\"fleet\"]\n", session,
			[]string{
				"venus.toml:7: firewall.allow: on the host venus the SSH session from 203.0.113.9 would be cut: no rule of the firewall accepts tcp 22 from 203.0.113.9; connections that are open stay, a new one would be refused",
			},
		},
		{
			"or on the host of the machine's name", "", closed + "[firewall.allow.etcd]\nports = [2380]\nfrom = [\"fleet\"]\n",
			Session{"203.0.113.9 50000 172.16.0.9 22", "venus"},
			[]string{
				"venus.toml:7: firewall.allow: on the host venus the SSH session from 203.0.113.9 would be cut: no rule of the firewall accepts tcp 22 from 203.0.113.9; connections that are open stay, a new one would be refused",
			},
		},
		{"but not on a machine that is none of the fleet's", "", closed + "[firewall.allow.etcd]\nports = [2380]\nfrom = [\"fleet\"]\n", Session{"203.0.113.9 50000 172.16.0.9 22", "laptop"}, nil},
		{
			"Vault's network is discarded", "", eth0 + out + "[[network.route]]\ndestination = \"203.0.113.0/24\"\ntype = \"blackhole\"\n",
			Session{},
			[]string{
				"venus.toml:12: network.route[1]: on the host venus the way to Vault at 203.0.113.80:8200 would be cut: the blackhole route to 203.0.113.0/24 discards what is sent to 203.0.113.80",
			},
		},
		{
			"a rule discards the API endpoint", "", "[[network.rule]]\npriority = 5\nto = \"10.9.0.1/32\"\naction = \"unreachable\"\n",
			Session{},
			[]string{
				"venus.toml:7: network.rule[0]: on the host venus the way to etcd on mars would be cut: the policy rule 5 discards what is sent to 10.9.0.1 (and 2 more by this line)",
			},
		},
		{
			"a rule discards an endpoint", "", "[[network.rule]]\npriority = 5\nto = \"198.51.100.0/24\"\naction = \"blackhole\"\n",
			Session{},
			[]string{
				"venus.toml:7: network.rule[0]: on the host venus WireGuard's way to mars at 198.51.100.1:51820 would be cut: the policy rule 5 discards what is sent to 198.51.100.1",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, p := range FleetCuts(cutFleet(t, tc.cluster, tc.venus), tc.session) {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
