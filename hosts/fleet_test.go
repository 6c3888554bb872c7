package hosts

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var netipValues = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func mustLoad(t testing.TB, files map[string]string) *Fleet {
	t.Helper()
	fleet, err := LoadFS(folder(files), ".")
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return fleet
}

func mustHost(t testing.TB, f *Fleet, name string) *Spec {
	t.Helper()
	s, err := f.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every fleet that is shipped is valid, without a warning.
func TestShippedFleets(t *testing.T) {
	dirs, err := filepath.Glob("fleets/*")
	if err != nil || len(dirs) < 2 {
		t.Fatalf("fleets are %v, %v", dirs, err)
	}
	for _, dir := range dirs {
		fleet, err := Load(dir)
		if err != nil {
			t.Errorf("%s:\n%v", dir, err)
			continue
		}
		if len(fleet.Warnings) > 0 {
			t.Errorf("%s: warnings %v", dir, fleet.Warnings)
		}
		for _, s := range fleet.Hosts {
			checkInvariants(t, s)
		}
	}
}

func TestMercury(t *testing.T) {
	fleet, err := Load("fleets/mercury")
	if err != nil {
		t.Fatal(err)
	}
	if len(fleet.Hosts) != 1 {
		t.Fatalf("mercury has %d hosts", len(fleet.Hosts))
	}
	s := mustHost(t, fleet, "mercury")
	got := []any{s.Roles, s.Address.String(), s.Kernel.Modules, s.Kubernetes.PodRange.String(), s.Kubernetes.HostPodRange.String(), s.Kubernetes.ServiceRange.String(), s.Kubernetes.PodMTU, s.Kubernetes.Endpoint, s.Kubernetes.CNI, s.PKI.Issuer, s.PKI.RenewBefore, s.Network.Routes[0].Via.String()}
	want := []any{
		[]Role{RoleControlPlane, RoleEtcd, RoleWorker},
		"203.0.113.10",
		[]Module{{Name: "br_netfilter"}, {Name: "overlay"}},
		"10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/12", 1450, "203.0.113.10:6443", "bridge", "local", 720 * time.Hour, "203.0.113.1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mercury (-want +got):\n%s", diff)
	}
	open := map[uint16]bool{} // to the whole world
	for _, rule := range s.Firewall.Allow {
		for _, port := range rule.Ports {
			if len(rule.From) == 0 {
				open[port] = true
			}
		}
	}
	if diff := cmp.Diff(map[uint16]bool{6443: true, 80: true, 443: true}, open); diff != "" || !s.Firewall.Enabled {
		t.Errorf("open to everybody (-want +got), firewall %v:\n%s", s.Firewall.Enabled, diff)
	}
}

func TestK8s235(t *testing.T) {
	paths, err := filepath.Glob("fleets/k8s-235/*")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(content), "\n")
	}
	if lines > 80 {
		t.Errorf("the fleet has %d lines, want at most 80", lines)
	}
	fleet, err := Load("fleets/k8s-235")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range fleet.Hosts {
		names = append(names, s.Name)
		if len(s.Roles) != 3 || s.PKI.Issuer != "vault" || s.Kubernetes.CNI != "none" || len(s.Peers) != 2 {
			t.Errorf("%s: roles %v, issuer %q, cni %q, %d peers", s.Name, s.Roles, s.PKI.Issuer, s.Kubernetes.CNI, len(s.Peers))
		}
		if w := s.Network.WireGuard; w == nil || w.Address.Addr() != s.Address {
			t.Errorf("%s: WireGuard is %+v, the node address %s", s.Name, w, s.Address)
		}
		for _, p := range s.Peers {
			if key, err := base64.StdEncoding.DecodeString(p.WireGuard.PublicKey); err != nil || len(key) != 32 || p.WireGuard.Endpoint == "" {
				t.Errorf("%s: peer %s is %+v", s.Name, p.Name, p.WireGuard)
			}
		}
	}
	if !slices.Equal(names, []string{"sassaflash", "soarin", "stormfeather"}) {
		t.Errorf("the hosts are %v", names)
	}
}

// checkInvariants holds for every valid spec.
func checkInvariants(t testing.TB, s *Spec) {
	t.Helper()
	must := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("host %s: %s", s.Name, what)
		}
	}
	must(isLabel(s.Name) && isLabel(s.Cluster) && s.Domain != "", "names")
	must(s.Address.IsValid(), "node address")
	must(slices.IsSorted(s.Roles) && len(slices.Compact(slices.Clone(s.Roles))) == len(s.Roles), "roles are sorted, each once")
	must(strings.HasPrefix(s.Digest, "sha256:") && len(s.Digest) == 71, "digest")
	must(slices.IsSortedFunc(s.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) }), "peers are sorted")
	must(slices.IsSortedFunc(s.Kernel.Modules, func(a, b Module) int { return strings.Compare(a.Name, b.Name) }), "modules are sorted")
	must(s.PKI.RenewBefore > 0 && s.PKI.RenewBefore < s.PKI.Lifetime && s.PKI.Lifetime <= s.PKI.CALifetime && s.PKI.AdminLifetime <= s.PKI.CALifetime, "lifetimes")
	must((s.PKI.Issuer == "vault") == (s.PKI.Vault != nil) || len(s.Roles) == 0, "vault")
	must(s.Etcd.QuotaBytes > 0 && s.Etcd.QuotaBytes <= 8<<30 && s.Etcd.ElectionTimeout >= 5*s.Etcd.HeartbeatInterval && s.Etcd.HeartbeatInterval > 0, "etcd")
	must(s.Snapshots.Keep.Last >= 1 && filepath.IsAbs(s.Snapshots.Destination), "snapshots")
	k := s.Kubernetes
	must(filepath.IsAbs(k.Binaries) && filepath.IsAbs(k.CNIBinaries) && k.PauseImage != "" && k.PodMTU >= 1280, "kubernetes")
	if s.Has(RoleWorker) || s.Has(RoleControlPlane) {
		must(k.Version != "" && k.Endpoint != "" && k.PodRange.IsValid() && k.ServiceRange.IsValid(), "kubernetes of a Kubernetes host")
		must(!k.PodRange.Overlaps(k.ServiceRange), "ranges overlap")
		must(s.Has(RoleWorker) && k.CNI == "bridge" == k.HostPodRange.IsValid() || !k.HostPodRange.IsValid(), "host pod range")
	}
	if k.HostPodRange.IsValid() {
		must(k.PodRange.Contains(k.HostPodRange.Addr()) && k.HostPodRange.Bits() >= k.PodRange.Bits(), "host pod range within the cluster's")
	}
	for _, p := range s.Peers {
		must(p.Name != s.Name && p.Address != s.Address, "a peer is another host")
		must(!p.PodRange.IsValid() || !k.HostPodRange.IsValid() || !p.PodRange.Overlaps(k.HostPodRange), "pod ranges overlap")
	}
	for _, rule := range s.Firewall.Allow {
		must(len(rule.Ports) > 0 && (rule.Protocol == "tcp" || rule.Protocol == "udp"), "rule "+rule.Name)
		for _, p := range rule.From {
			must(p.IsValid() && p == p.Masked(), "source of rule "+rule.Name)
		}
	}
	for _, l := range s.Network.Links {
		must(l.Name != "" && l.Kind != "", "link "+l.Name)
		for _, p := range l.Addresses {
			must(p.Prefix.IsValid(), "address of link "+l.Name)
		}
	}
	checkNetworkInvariants(t, s, must)
	for path, place := range s.Defined {
		must(path != "" && (strings.HasPrefix(place, clusterTOML+":") || strings.HasPrefix(place, s.Name+".toml:")), "defined "+path+" at "+place)
	}
}

// threeHosts is a fleet that uses much of the format.
func threeHosts() map[string]string {
	files := map[string]string{"cluster.toml": `
[cluster]
name = "three"
[kernel]
modules = ["nf_conntrack"]
[kernel.parameters.nf-conntrack]
hashsize = 65536
[kernel.sysctl]
net.core.somaxconn = 4096
"kernel.panic" = 30
[network.link.lan0]
mtu = 9000
[firewall.allow.ssh]
ports = [22]
[firewall.allow.etcd]
ports = [2380, 2379]
from = ["fleet"]
[firewall.allow.nodes]
ports = [10250]
from = ["pods", "198.51.100.7", "fleet"]
[pki]
issuer = "vault"
extra_names = ["api.three.example.org"]
[pki.vault]
address = "https://vault.example.org:8200/"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/16"
endpoint = "api.three.example.org:6443"
[kubernetes.extra_args.kubelet]
v = 2
feature-gates = "A=true"
[kubernetes.config.kubelet]
maxPods = 200
evictionHard = { "memory.available" = "5%", "nodefs.available" = "10%" }
allowedUnsafeSysctls = ["net.a"]
`}
	for i, name := range []string{"a", "a-b", "c"} {
		files[name+".toml"] = fmt.Sprintf(`[host]
roles = ["worker", "etcd", "control-plane", "etcd"]
address = "192.0.2.%d"
pod_range = "10.244.%d.0/24"
[network.link.lan0]
addresses = ["192.0.2.%d/24"]
`, i+1, i, i+1)
	}
	files["c.toml"] += `[kernel]
modules = ["dummy"]
[kernel.sysctl]
"kernel.panic" = 5
kernel.panic_on_oops = false
[pki]
extra_names = ["c.example.org"]
lifetime = "30d12h"
[kubernetes]
binaries = "/opt/k8s"
[kubernetes.extra_args.kubelet]
v = 4
[kubernetes.config.kubelet]
maxPods = 50
evictionHard = { "memory.available" = "1%" }
allowedUnsafeSysctls = ["net.b"]
[snapshots]
schedule = "never"
`
	return files
}

// Tables are merged and the host wins, lists are joined, defaults are filled
// in, and what comes from the other hosts is derived.
func TestJoinAndDerive(t *testing.T) {
	fleet := mustLoad(t, threeHosts())
	a, c := mustHost(t, fleet, "a"), mustHost(t, fleet, "c")
	for _, s := range fleet.Hosts {
		checkInvariants(t, s)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got, netipValues); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("modules of a", a.Kernel.Modules, []Module{{Name: "br_netfilter"}, {Name: "nf_conntrack", Parameters: map[string]string{"hashsize": "65536"}}, {Name: "overlay"}})
	check("modules of c", c.Kernel.Modules, []Module{{Name: "br_netfilter"}, {Name: "dummy"}, {Name: "nf_conntrack", Parameters: map[string]string{"hashsize": "65536"}}, {Name: "overlay"}})
	sysctls := maps.Clone(workerSysctls)
	sysctls["net.core.somaxconn"], sysctls["kernel.panic"] = "4096", "30"
	sysctls["fs.inotify.max_user_instances"] = inotifyInstances
	check("sysctls of a", a.Kernel.Sysctls, sysctls)
	sysctls["kernel.panic"] = "5"
	delete(sysctls, "kernel.panic_on_oops")
	check("sysctls of c", c.Kernel.Sysctls, sysctls)
	check("links", c.Network.Links, []Link{{Name: "lan0", Kind: LinkPhysical, MTU: 9000, Addresses: Plain(netip.MustParsePrefix("192.0.2.3/24"))}})
	check("names", c.PKI.ExtraNames, []string{"api.three.example.org", "c.example.org"})
	check("lifetimes", []time.Duration{a.PKI.Lifetime, a.PKI.RenewBefore, c.PKI.Lifetime, c.PKI.RenewBefore}, []time.Duration{2160 * time.Hour, 720 * time.Hour, 732 * time.Hour, 244 * time.Hour})
	check("vault", a.PKI.Vault, &Vault{Address: "https://vault.example.org:8200", Mount: "nodeagent/three", Auth: "cert"})
	check("flags", c.Kubernetes.ExtraArgs, map[string]map[string]string{"kubelet": {"v": "4", "feature-gates": "A=true"}})
	check("config", c.Kubernetes.Config, map[string]map[string]any{"kubelet": {
		"maxPods":              int64(50),
		"evictionHard":         map[string]any{"memory.available": "1%", "nodefs.available": "10%"},
		"allowedUnsafeSysctls": []any{"net.a", "net.b"},
	}})
	check("config of a", a.Kubernetes.Config["kubelet"]["maxPods"], int64(200))
	check("binaries", []string{a.Kubernetes.Binaries, c.Kubernetes.Binaries}, []string{"/usr/local/bin", "/opt/k8s"})
	check("schedules", []string{a.Snapshots.Schedule, c.Snapshots.Schedule}, []string{defaultSchedule, ""})
	check("roles", c.Roles, []Role{RoleControlPlane, RoleEtcd, RoleWorker})
	peer := func(name, address, pods string) Peer {
		return Peer{Name: name, Roles: []Role{RoleControlPlane, RoleEtcd, RoleWorker}, Address: netip.MustParseAddr(address), PodRange: netip.MustParsePrefix(pods)}
	}
	check("peers", c.Peers, []Peer{peer("a", "192.0.2.1", "10.244.0.0/24"), peer("a-b", "192.0.2.2", "10.244.1.0/24")})
	prefixes := func(texts ...string) (ps []netip.Prefix) {
		for _, text := range texts {
			ps = append(ps, netip.MustParsePrefix(text))
		}
		return ps
	}
	check("firewall", c.Firewall, Firewall{Enabled: true, Allow: []Allow{
		{Name: "etcd", Protocol: "tcp", Ports: []uint16{2379, 2380}, From: prefixes("192.0.2.1/32", "192.0.2.2/32")},
		{Name: "nodes", Protocol: "tcp", Ports: []uint16{10250}, From: prefixes("10.244.0.0/16", "192.0.2.1/32", "192.0.2.2/32", "198.51.100.7/32")},
		{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}},
	}, Masquerade: []Masquerade{{
		Name: "pods", From: prefixes("10.244.0.0/16"),
		Except: prefixes("10.244.0.0/16", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"),
	}}})
	for path, place := range map[string]string{
		"kubernetes.binaries":                     "c.toml:16",
		"kubernetes.version":                      "cluster.toml:27",
		"kernel.sysctl.kernel.panic":              "c.toml:10",
		"kernel.sysctl.net.core.somaxconn":        "cluster.toml:9",
		"network.link.lan0.mtu":                   "cluster.toml:12",
		"network.link.lan0.addresses[0]":          "c.toml:6",
		"pki.extra_names[0]":                      "cluster.toml:23",
		"pki.extra_names[1]":                      "c.toml:13",
		"kubernetes.extra_args.kubelet.v":         "c.toml:18",
		"kubernetes.config.kubelet.maxPods":       "c.toml:20",
		"kubernetes.config.kubelet":               "c.toml:19",
		"kubernetes.endpoint":                     "cluster.toml:30",
		"kubernetes.pod_mtu":                      "",
		"kernel.parameters.nf-conntrack.hashsize": "cluster.toml:7",
	} {
		if got := c.Defined[path]; got != place {
			t.Errorf("Defined[%q] is %q, want %q", path, got, place)
		}
	}
}

// A rule for the fleet of one host opens nothing, rather than everything.
func TestFirewallOfNobody(t *testing.T) {
	fleet := mustLoad(t, map[string]string{
		"cluster.toml": plainCluster + "[firewall.allow.ssh]\nports = [22]\nfrom = [\"fleet\"]\n[firewall.allow.any]\nports = [80]\nfrom = [\"any\"]\n",
		"a.toml":       plainHost,
	})
	want := Firewall{Enabled: true, Allow: []Allow{{Name: "any", Protocol: "tcp", Ports: []uint16{80}}}}
	if diff := cmp.Diff(want, fleet.Hosts[0].Firewall, netipValues); diff != "" {
		t.Errorf("firewall (-want +got):\n%s", diff)
	}
}

func TestKernelDefaultsCanBeLeftOut(t *testing.T) {
	cluster := plainCluster + "[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/24\"\nservice_range = \"10.96.0.0/16\"\n"
	host := "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"192.0.2.1\"\n"
	s := mustLoad(t, map[string]string{"cluster.toml": cluster, "a.toml": host + "[kernel]\ndefaults = false\nmodules = [\"overlay\"]\n[kernel.sysctl]\nnet.ipv4.ip_forward = 1\n"}).Hosts[0]
	want := Kernel{Modules: []Module{{Name: "overlay"}}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}
	if diff := cmp.Diff(want, s.Kernel); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
	if s.Kubernetes.HostPodRange.String() != "10.244.0.0/24" || s.PKI.Issuer != "local" {
		t.Errorf("pod range %s, issuer %q", s.Kubernetes.HostPodRange, s.PKI.Issuer)
	}
}

func TestIPv6Fleet(t *testing.T) {
	s := mustLoad(t, map[string]string{
		"cluster.toml": plainCluster + "[kubernetes]\nversion = \"1.36.3\"\npod_range = \"2001:db8:1::/48\"\nservice_range = \"2001:db8:2::/112\"\n",
		"a.toml":       "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"2001:db8::1\"\n[[network.route]]\ndestination = \"default\"\nvia = \"fe80::1\"\ndevice = \"lan0\"\n[network.link.lan0]\n",
	}).Hosts[0]
	got := []string{s.Kubernetes.HostPodRange.String(), s.Kubernetes.Endpoint, s.Network.Routes[0].Destination.String(), s.Kernel.Sysctls["net.ipv6.conf.all.forwarding"]}
	if diff := cmp.Diff([]string{"2001:db8:1::/64", "[2001:db8::1]:6443", "::/0", "1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// shuffled lists its files in another order than that of their names.
type shuffled struct {
	fstest.MapFS
	order []int
}

func (s shuffled) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := s.MapFS.ReadDir(name)
	out := make([]fs.DirEntry, len(entries))
	for i, j := range s.order {
		out[i] = entries[j]
	}
	return out, err
}

// The order in which a file system lists the hosts changes nothing.
func TestOrderOfHostsDoesNotMatter(t *testing.T) {
	files := folder(threeHosts()).(fstest.MapFS)
	want := mustLoad(t, threeHosts())
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		got, err := LoadFS(shuffled{files, random.Perm(len(files))}, ".")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, netipValues); diff != "" {
			t.Fatalf("another order gives another fleet:\n%s", diff)
		}
	}
}

// Any change to any file changes the digest, and so does a renamed file.
func TestDigest(t *testing.T) {
	const comment = "# this comment is the only thing that changes\n"
	files := map[string]string{"cluster.toml": plainCluster + comment, "a.toml": plainHost + comment}
	seen := map[string]string{mustLoad(t, files).Hosts[0].Digest: "as it was"}
	note := func(what string, files map[string]string) {
		t.Helper()
		digest := mustLoad(t, files).Hosts[0].Digest
		if other, twice := seen[digest]; twice {
			t.Errorf("%s has the digest of %s", what, other)
		}
		seen[digest] = what
	}
	for name := range files {
		for i := range comment[2 : len(comment)-1] {
			changed := maps.Clone(files)
			content := []byte(changed[name])
			content[len(content)-2-i] ^= 1
			if content[len(content)-2-i] == comment[len(comment)-2-i] {
				continue
			}
			changed[name] = string(content)
			note(fmt.Sprintf("%s with byte %d from its end changed", name, i+2), changed)
		}
	}
	note("another name", map[string]string{"cluster.toml": files["cluster.toml"], "b.toml": files["a.toml"]})
	note("a byte moved to the other file", map[string]string{"cluster.toml": files["cluster.toml"] + "\n", "a.toml": files["a.toml"]})
	note("the same byte in the host's file", map[string]string{"cluster.toml": files["cluster.toml"], "a.toml": files["a.toml"] + "\n"})
}

// A host that cannot open its snapshots does not try by itself whether they
// restore; one that can does, by default.
func TestDefaultDrill(t *testing.T) {
	for settings, want := range map[string]string{
		"":                                      "Sun 03:00",
		"drill = \"never\"\n":                   "",
		"drill = \"daily\"\n":                   "daily",
		"recipients = [\"" + somebody + "\"]\n": "",
		"recipients = [\"" + somebody + "\"]\nidentity_file = \"/etc/key\"\n": "Sun 03:00",
	} {
		s := mustLoad(t, map[string]string{
			"cluster.toml": plainCluster + "[snapshots]\n" + settings,
			"a.toml":       "[host]\nroles = [\"etcd\"]\naddress = \"192.0.2.1\"\n",
		}).Hosts[0]
		if s.Snapshots.Drill != want {
			t.Errorf("%q: a drill at %q, want %q", settings, s.Snapshots.Drill, want)
		}
		if s.Snapshots.By != ByEach {
			t.Errorf("%q: by %s", settings, s.Snapshots.By)
		}
	}
	s := mustLoad(t, map[string]string{
		"cluster.toml": plainCluster + "[snapshots.copies.away]\nfolder = \"/mnt/away\"\n",
		"a.toml":       "[host]\nroles = [\"etcd\"]\naddress = \"192.0.2.1\"\n",
	}).Hosts[0]
	if s.Snapshots.By != ByOne {
		t.Errorf("with copies: by %s", s.Snapshots.By)
	}
}

// somebody is an age recipient.
const somebody = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
