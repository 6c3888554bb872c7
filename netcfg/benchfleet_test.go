package netcfg

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// bigFleet writes a fleet of n hosts: three control planes, workers, a mesh of
// all of them, and pod ranges routed through it.
func bigFleet(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name, text string) {
		must(tb, os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600))
	}
	write("cluster", `[cluster]
name = "big"
[network.wireguard]
range = "10.64.0.0/16"
[firewall.allow.admin]
ports = [22, 6443]
from = ["fleet"]
[kubernetes]
version = "1.36.3"
pod_range = "10.128.0.0/12"
service_range = "10.96.0.0/16"
endpoint = "api.example.org:6443"
cni = "bridge"
[pki]
issuer = "vault"
[pki.vault]
address = "https://vault.example.org:8200"
mount = "pki/big"
ca_file = "/etc/nodeagent/vault-ca.crt"
`)
	for i := range n {
		roles := `["worker"]`
		if i < 3 {
			roles = `["control-plane", "etcd", "worker"]`
		}
		key := sha256.Sum256([]byte{byte(i >> 8), byte(i)})
		write(fmt.Sprintf("host%04d", i), fmt.Sprintf(`[host]
roles = %s
address = "172.%d.%d.%d"
pod_range = "10.%d.%d.0/24"
[wireguard]
address = "10.64.%d.%d"
public_key = %q
endpoint = "172.%d.%d.%d:51820"
`, roles, 16+i/60000, i/250, 1+i%250, 128+i/256, i%256, i/250, 1+i%250,
			base64.StdEncoding.EncodeToString(key[:]), 16+i/60000, i/250, 1+i%250))
	}
	return dir
}

const fleetHosts = 1000

// BenchmarkFleet plans one host of a fleet of 1,000, from the files on, for a
// host that has nothing yet and for one that has it all.
func BenchmarkFleet(b *testing.B) {
	dir := bigFleet(b, fleetHosts)
	plan := func(have State) (State, int) {
		fleet, err := hosts.Load(dir)
		if err != nil {
			b.Fatal(err)
		}
		spec, err := fleet.Host("host0050")
		if err != nil {
			b.Fatal(err)
		}
		want := Want(spec)
		return want, len(Diff(have, want))
	}
	want, changes := plan(State{})
	// One route to the pods of each other host, and one for pods that are nowhere.
	if len(want.Routes) != fleetHosts || len(want.WireGuard.Peers) != fleetHosts-1 {
		b.Fatalf("%d routes and %d peers, want %d and %d", len(want.Routes), len(want.WireGuard.Peers), fleetHosts, fleetHosts-1)
	}
	b.ReportAllocs()
	begin := time.Now()
	runs := 0
	for b.Loop() {
		if _, again := plan(State{}); again != changes {
			b.Fatalf("%d changes, then %d", changes, again)
		}
		runs++
	}
	fmt.Printf("plan-in-a-fleet-of-%d: %v, from the files to %d changes\n", fleetHosts, (time.Since(begin) / time.Duration(max(runs, 1))).Round(time.Millisecond), changes)
}

// BenchmarkFleetDiff is Want and Diff of that host alone.
func BenchmarkFleetDiff(b *testing.B) {
	fleet, err := hosts.Load(bigFleet(b, fleetHosts))
	if err != nil {
		b.Fatal(err)
	}
	spec, err := fleet.Host("host0050")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		want := Want(spec)
		if len(Diff(State{}, want)) == 0 {
			b.Fatal("nothing to do on an empty host")
		}
	}
}
