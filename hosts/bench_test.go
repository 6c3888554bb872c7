package hosts

import (
	"encoding/base64"
	"fmt"
	"testing"
)

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load("fleets/k8s-235"); err != nil {
			b.Fatal(err)
		}
	}
}

// largeFleet has n workers, three control planes and a bastion with clients, in
// one mesh, closed by a firewall that names words of every kind.
func largeFleet(n int) map[string]string {
	key := func(i int) string {
		return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%032d", i+1))
	}
	files := map[string]string{"cluster.toml": `[cluster]
name = "large"
[network]
hosts_file = true
[network.wireguard]
range = "10.8.0.0/16"
[firewall.allow.ssh]
ports = [22]
from = ["clients", "host:h00000"]
interfaces = ["wg0"]
[firewall.allow.fleet]
ports = [9100]
from = ["fleet", "pods"]
[firewall.forward.admins]
from = ["clients"]
to = ["wireguard"]
[pki]
issuer = "vault"
[pki.vault]
address = "https://vault.example.org"
[kubernetes]
version = "1.36.3"
pod_range = "10.128.0.0/9"
service_range = "10.96.0.0/16"
endpoint = "api.example.org:6443"
`}
	for i := range n + 4 {
		roles, pods, clients := `"worker"`, fmt.Sprintf("pod_range = \"10.%d.%d.0/24\"\n", 128+i/256, i%256), ""
		switch {
		case i == 0:
			roles, pods = "", ""
			for c := range 20 {
				clients += fmt.Sprintf("[wireguard.client.admin%d]\npublic_key = %q\naddresses = [\"10.8.255.%d\"]\n", c, key(100000+c), c+1)
			}
		case i <= 3:
			roles, pods = `"control-plane", "etcd"`, ""
		}
		files[fmt.Sprintf("h%05d.toml", i)] = fmt.Sprintf(`[host]
roles = [%s]
%s[wireguard]
address = "10.8.%d.%d"
public_key = %q
endpoint = "198.18.%d.%d:51820"
[network.link.eth0]
addresses = ["198.18.%d.%d/16"]
[[network.route]]
destination = "default"
via = "198.18.255.254"
%s`, roles, pods, (i+1)/256, (i+1)%256, key(i), (i+1)/256, (i+1)%256, (i+1)/256, (i+1)%256, clients)
	}
	return files
}

func BenchmarkLoadThousand(b *testing.B) {
	fsys := folder(largeFleet(1000))
	b.ReportAllocs()
	for b.Loop() {
		fleet, err := LoadFS(fsys, ".")
		if err != nil {
			b.Fatal(err)
		}
		if len(fleet.Warnings) > 0 {
			b.Fatal(fleet.Warnings[0])
		}
	}
}
