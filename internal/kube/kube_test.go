package kube

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

func unitOf(t *testing.T, state units.State, component string) units.Unit {
	t.Helper()
	at := slices.IndexFunc(state.Units, func(u units.Unit) bool { return u.Name == layout.Unit(component) })
	if at < 0 {
		t.Fatalf("no unit of %s", component)
	}
	return state.Units[at]
}

func fileOf(t *testing.T, state units.State, suffix string) units.File {
	t.Helper()
	at := slices.IndexFunc(state.Files, func(f units.File) bool { return strings.HasSuffix(f.Path, suffix) })
	if at < 0 {
		t.Fatalf("no file %s", suffix)
	}
	return state.Files[at]
}

func TestRoles(t *testing.T) {
	tests := []struct {
		roles []hosts.Role
		want  []string
	}{
		{nil, nil},
		{[]hosts.Role{hosts.RoleEtcd}, []string{layout.Etcd}},
		{[]hosts.Role{hosts.RoleWorker}, []string{layout.Containerd, layout.Kubelet, layout.KubeProxy}},
		{[]hosts.Role{hosts.RoleControlPlane}, []string{layout.APIServer, layout.ControllerManager, layout.Scheduler}},
		{allRoles, []string{
			layout.Etcd, layout.Containerd, layout.APIServer, layout.ControllerManager,
			layout.Scheduler, layout.Kubelet, layout.KubeProxy,
		}},
	}
	for _, test := range tests {
		spec := mesh()
		spec.Roles = test.roles
		state := Render(spec, "", Facts{})
		var got []string
		seen := map[string]bool{}
		for _, unit := range state.Units {
			got = append(got, unit.Name)
			for _, need := range unit.Needs {
				if !seen[need] {
					t.Errorf("roles %v: %s needs %s, which doesn't start before it", test.roles, unit.Name, need)
				}
			}
			seen[unit.Name] = true
		}
		if diff := cmp.Diff(unitNames(test.want), got); diff != "" {
			t.Errorf("roles %v (-want +got):\n%s", test.roles, diff)
		}
		if !slices.IsSortedFunc(state.Files, func(a, b units.File) int { return strings.Compare(a.Path, b.Path) }) {
			t.Errorf("roles %v: files are not sorted", test.roles)
		}
	}
}

// TestStrict reads every file back with a strict parser: no duplicate key, no
// broken quoting.
func TestStrict(t *testing.T) {
	for _, spec := range []*hosts.Spec{single(), mesh()} {
		for _, file := range Render(spec, "", Facts{}).Files {
			var tree map[string]any
			var err error
			switch {
			case strings.HasSuffix(file.Path, ".toml"):
				err = toml.Unmarshal(file.Content, &tree)
			case strings.HasSuffix(file.Path, ".conflist"):
				decoder := json.NewDecoder(bytes.NewReader(file.Content))
				decoder.UseNumber()
				err = decoder.Decode(&tree)
			default:
				err = yaml.UnmarshalStrict(file.Content, &tree)
			}
			if err != nil || len(tree) == 0 {
				t.Errorf("%s does not read back: %v", file.Path, err)
			}
		}
	}
}

func TestFlagsWith(t *testing.T) {
	own := flags{{"a", "1"}, {"b", "2"}}
	got := own.with(map[string]string{"z": "9", "b": "3", "c": "4"}).args()
	want := []string{"--a=1", "--b=3", "--c=4", "--z=9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if own[1].value != "2" {
		t.Error("the flags themselves were changed")
	}
}

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"--a=b":       "--a=b",
		"":            `""`,
		"a b":         `"a b"`,
		`say "hi"`:    `"say \"hi\""`,
		"50%":         `"50%%"`,
		"$HOME":       `"$$HOME"`,
		"x\nExecStop": `"x\nExecStop"`,
		`back\slash`:  `"back\\slash"`,
		"semi;colon":  `"semi;colon"`,
	} {
		if got := quote(word, arguments); got != want {
			t.Errorf("quote(%q) = %s, want %s", word, got, want)
		}
	}
}

func TestMerge(t *testing.T) {
	base := map[string]any{"a": map[string]any{"x": 1, "y": 2}, "b": []any{1}}
	over := map[string]any{"a": map[string]any{"y": 3, "z": 4}, "b": []any{2}, "c": math.Inf(1)}
	want := map[string]any{"a": map[string]any{"x": 1, "y": 3, "z": 4}, "b": []any{2}, "c": "+Inf"}
	if diff := cmp.Diff(want, merge(base, over)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"x": 1, "y": 2}, base["a"]); diff != "" {
		t.Errorf("the base was changed:\n%s", diff)
	}
}

// TestInputs: a unit's inputs change with its command line, its files and the
// PKI files that it reads only at start, and with nothing else.
func TestInputs(t *testing.T) {
	base := Render(single(), "", Facts{})
	restarted := func(spec *hosts.Spec, facts Facts) []string {
		var names []string
		for i, unit := range Render(spec, "", facts).Units {
			if unit.Inputs != base.Units[i].Inputs {
				names = append(names, strings.TrimSuffix(strings.TrimPrefix(unit.Name, layout.UnitPrefix), ".service"))
			}
		}
		return names
	}
	digest := func(path string) Facts { return Facts{Digests: map[string]string{path: "sha256:1"}} }
	root := layout.Root("")
	changed := func(change func(*hosts.Spec)) *hosts.Spec {
		spec := single()
		change(spec)
		return spec
	}
	tests := []struct {
		what  string
		spec  *hosts.Spec
		facts Facts
		want  []string
	}{
		{"nothing", single(), Facts{}, nil},
		{"a leaf", single(), digest(root.Certificate(layout.CertAPIServer).Cert), nil},
		{"etcd's CA", single(), digest(root.Trust(layout.CAEtcdServer)), []string{layout.Etcd, layout.APIServer}},
		{"the peers' CA", single(), digest(root.Trust(layout.CAEtcdPeer)), []string{layout.Etcd}},
		{"the clients' CA", single(), digest(root.Trust(layout.CAK8sClient)), nil},
		{"the servers' CA", single(), digest(root.Trust(layout.CAK8sServer)), []string{layout.APIServer, layout.ControllerManager, layout.Scheduler, layout.Kubelet, layout.KubeProxy}},
		{"the token key", single(), digest(root.ServiceAccountKey()), []string{layout.APIServer, layout.ControllerManager}},
		{"a flag", changed(func(s *hosts.Spec) { s.Kubernetes.ExtraArgs["kubelet"]["v"] = "4" }), Facts{}, []string{layout.Kubelet}},
		{"a file", changed(func(s *hosts.Spec) { s.Kubernetes.Config["kube-proxy"]["portRange"] = "1-2" }), Facts{}, []string{layout.KubeProxy}},
		{
			"the cgroup driver", changed(func(s *hosts.Spec) { s.Kubernetes.Config["kubelet"]["cgroupDriver"] = "cgroupfs" }),
			Facts{},
			[]string{layout.Containerd, layout.Kubelet},
		},
		{"the pods' MTU", changed(func(s *hosts.Spec) { s.Kubernetes.PodMTU = 1400 }), Facts{}, []string{layout.Containerd}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, restarted(test.spec, test.facts)); diff != "" {
			t.Errorf("a change of %s restarts (-want +got):\n%s", test.what, diff)
		}
	}
}

// TestHastyClientsRestart: who looks at its pair every five minutes is too late
// for one that is renewed a minute before its end.
func TestHastyClientsRestart(t *testing.T) {
	spec, root := single(), layout.Root("")
	spec.PKI.RenewBefore = time.Minute
	digests := map[string]string{}
	for _, path := range ClientPairs(spec, root) {
		digests[path] = "sha256:1"
	}
	old, renewed := Render(spec, root, Facts{}), Render(spec, root, Facts{Digests: digests})
	var same []string
	for i, unit := range old.Units {
		if unit.Inputs == renewed.Units[i].Inputs {
			same = append(same, unit.Name)
		}
	}
	if diff := cmp.Diff(unitNames([]string{layout.Etcd, layout.Containerd, layout.APIServer}), same); diff != "" {
		t.Error(diff)
	}
	if patient := ClientPairs(single(), root); patient != nil {
		t.Errorf("certificates that are renewed in time restart somebody: %v", patient)
	}
}

func TestMissing(t *testing.T) {
	set := unitOf(t, Render(mesh(), "", Facts{}), layout.Kubelet).Missing
	byDefault := unitOf(t, Render(single(), "", Facts{}), layout.Kubelet).Missing
	for text, wants := range map[string][]string{
		set:       {"kubelet", "/usr/local/bin", "kubernetes.binaries at cluster.toml:12"},
		byDefault: {"kubelet", "/usr/local/bin", "the default of kubernetes.binaries"},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q doesn't say %q", text, want)
			}
		}
	}
}

// TestPrograms names what containerd and kube-proxy cannot work without.
func TestPrograms(t *testing.T) {
	names := func(spec *hosts.Spec) []string {
		var list []string
		for _, unit := range Render(spec, "", Facts{PathEnv: "/usr/sbin"}).Units {
			for _, p := range unit.Programs {
				list = append(list, p.Name+" in "+strings.Join(p.Folders, ":"))
				if p.Missing == "" {
					t.Errorf("%s: nothing says what to do when it is missing", p.Name)
				}
			}
		}
		return list
	}
	bridge := single()
	bridge.Kubernetes.Binaries, bridge.Kubernetes.CNIBinaries = "/opt/bin", "/opt/cni"
	bridge.Kubernetes.Config = nil
	runtime := []string{"containerd-shim-runc-v2 in /opt/bin:/usr/sbin", "runc in /opt/bin:/usr/sbin"}
	plugins := []string{"bridge in /opt/cni", "host-local in /opt/cni", "portmap in /opt/cni"}
	proxy := []string{"nft in /opt/bin:/usr/sbin"}
	if diff := cmp.Diff(slices.Concat(runtime, plugins, proxy), names(bridge)); diff != "" {
		t.Error(diff)
	}
	other := *bridge
	other.Kubernetes.CNI = "none"
	other.Kubernetes.Config = map[string]map[string]any{
		"containerd": {"plugins": object{"io.containerd.cri.v1.runtime": object{"containerd": object{"default_runtime_name": "crun"}}}},
		"kube-proxy": {"mode": "iptables"},
	}
	if diff := cmp.Diff([]string(nil), names(&other)); diff != "" {
		t.Error(diff)
	}
}

func TestEffects(t *testing.T) {
	for _, unit := range Render(mesh(), "", Facts{}).Units {
		want := plan.Restart
		if unit.Name == layout.Unit(layout.Etcd) {
			want = plan.Quorum
		}
		if unit.Effect != want || !unit.Enabled || !unit.Active {
			t.Errorf("%s: effect %v, enabled %v, active %v", unit.Name, unit.Effect, unit.Enabled, unit.Active)
		}
	}
}

func TestEtcdServers(t *testing.T) {
	spec := mesh()
	want := "https://127.0.0.1:2379,https://10.235.0.2:2379,https://10.235.0.3:2379"
	if got := etcdServers(spec); got != want {
		t.Errorf("with a member of its own: %s", got)
	}
	spec.Roles = []hosts.Role{hosts.RoleControlPlane}
	if got := etcdServers(spec); got != strings.TrimPrefix(want, "https://127.0.0.1:2379,") {
		t.Errorf("without: %s", got)
	}
	if needs := unitOf(t, Render(spec, "", Facts{}), layout.APIServer).Needs; len(needs) != 0 {
		t.Errorf("needs %v, which this host doesn't have", needs)
	}
}

func TestWorkerUsesEndpoint(t *testing.T) {
	spec := mesh()
	spec.Roles = []hosts.Role{hosts.RoleWorker}
	config := string(fileOf(t, Render(spec, "", Facts{}), "kubelet/kubeconfig").Content)
	if !strings.Contains(config, "server: https://k8s-235.example.net:6443") {
		t.Errorf("not the endpoint:\n%s", config)
	}
}

// TestShutIn: what mounts for others has no mount namespace of its own, and a
// program in a home folder is not hidden from itself.
func TestShutIn(t *testing.T) {
	spec := single()
	spec.Kubernetes.Binaries = "/root/bin"
	state := Render(spec, "", Facts{})
	for _, name := range []string{layout.Kubelet, layout.Containerd} {
		for _, word := range []string{"Protect", "Private", "ReadOnly", "ReadWrite", "NoNewPrivileges", "CapabilityBoundingSet"} {
			if strings.Contains(unitOf(t, state, name).Content, "\n"+word) {
				t.Errorf("%s is shut in by %s", name, word)
			}
		}
	}
	etcd := unitOf(t, state, layout.Etcd).Content
	if strings.Contains(etcd, "ProtectHome") || !strings.Contains(etcd, "PrivateTmp=yes") {
		t.Errorf("with programs below /root:\n%s", etcd)
	}
	if strings.Contains(etcd, "CAP_") {
		t.Error("etcd keeps a capability")
	}
	spec.Kubernetes.APIPort = 443
	if !strings.Contains(unitOf(t, Render(spec, "", Facts{}), layout.APIServer).Content, "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n") {
		t.Error("the API server may not listen on 443")
	}
}

func TestNodeRanges(t *testing.T) {
	for ranges, want := range map[string]string{"10.0.0.0/16": "", "10.0.0.0/24": "", "10.0.0.0/26": "26", "fd00::/56": "", "fd00::/112": "112"} {
		spec := mesh()
		spec.Kubernetes.PodRange = netip.MustParsePrefix(ranges)
		got := ""
		for _, f := range nodeRanges(spec) {
			if f.name == "node-cidr-mask-size" {
				got = f.value
			}
		}
		if got != want {
			t.Errorf("%s: node-cidr-mask-size %q, want %q", ranges, got, want)
		}
	}
}

func TestMetricsPort(t *testing.T) {
	spec := mesh()
	spec.Etcd.ClientPort, spec.Etcd.PeerPort = 2381, 2382
	if got := metricsPort(spec); got != 2383 {
		t.Errorf("metrics port %d is in use", got)
	}
}

// TestPure: rendering twice gives the same and leaves the spec alone.
func TestPure(t *testing.T) {
	spec, again := single(), single()
	first := Render(spec, "", Facts{})
	if diff := cmp.Diff(first, Render(spec, "", Facts{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(again, spec, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("the spec was changed:\n%s", diff)
	}
}

// TestProxyWaitsForItsServer: the one that its kubeconfig names. Where that is the
// host's own, kube-proxy is not started before it, for it could not become ready.
func TestProxyWaitsForItsServer(t *testing.T) {
	for _, test := range []struct {
		roles  []hosts.Role
		needs  []string
		server string
	}{
		{allRoles, unitNames([]string{layout.APIServer}), "https://127.0.0.1:6443/readyz"},
		{[]hosts.Role{hosts.RoleWorker}, nil, "https://" + mesh().Kubernetes.Endpoint + "/readyz"},
	} {
		spec := mesh()
		spec.Roles = test.roles
		proxy := unitOf(t, Render(spec, "", Facts{}), layout.KubeProxy)
		if !slices.Equal(proxy.Needs, test.needs) || proxy.Server.URL != test.server {
			t.Errorf("roles %v: kube-proxy needs %v and waits for %s", test.roles, proxy.Needs, proxy.Server.URL)
		}
	}
}

// TestProbesFollow: what the fleet puts over an address moves the probe.
func TestProbesFollow(t *testing.T) {
	spec := single()
	probes := func() map[string]string {
		urls := map[string]string{}
		for _, unit := range Render(spec, "", Facts{}).Units {
			if unit.Ready != nil {
				urls[unit.Name] = unit.Ready.URL
			}
		}
		return urls
	}
	if diff := cmp.Diff(map[string]string{
		layout.Unit(layout.Etcd):              "https://127.0.0.1:2379/health",
		layout.Unit(layout.APIServer):         "https://127.0.0.1:6443/readyz",
		layout.Unit(layout.ControllerManager): "https://127.0.0.1:10257/healthz",
		layout.Unit(layout.Scheduler):         "https://127.0.0.1:10259/healthz",
		layout.Unit(layout.Kubelet):           "http://127.0.0.1:10248/healthz",
		layout.Unit(layout.KubeProxy):         "http://127.0.0.1:10256/livez",
	}, probes()); diff != "" {
		t.Error(diff)
	}
	spec.Kubernetes.ExtraArgs["kube-scheduler"] = map[string]string{"secure-port": "1", "bind-address": "0.0.0.0"}
	spec.Kubernetes.Config["kubelet"]["healthzPort"] = int64(0)
	spec.Kubernetes.Config["kube-proxy"]["healthzBindAddress"] = "[::]:2"
	got := probes()
	for name, want := range map[string]string{
		layout.Scheduler: "https://127.0.0.1:1/healthz", layout.Kubelet: "", layout.KubeProxy: "http://[::1]:2/livez",
	} {
		if got[layout.Unit(name)] != want {
			t.Errorf("%s is asked at %q, want %q", name, got[layout.Unit(name)], want)
		}
	}
}
