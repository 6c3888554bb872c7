package kube

import (
	"net/netip"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

var allRoles = []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker}

// single is a host that is a whole cluster, with the bridge and the local
// issuer, and whose fleet has settings of its own for the components.
func single() *hosts.Spec {
	return &hosts.Spec{
		Name: "mercury", Cluster: "mercury", Domain: "cluster.local",
		Roles:   allRoles,
		Address: netip.MustParseAddr("203.0.113.10"),
		PKI:     hosts.PKI{Issuer: "local", Lifetime: 2160 * time.Hour, RenewBefore: 720 * time.Hour},
		Kubernetes: hosts.Kubernetes{
			Version:      "1.36.3",
			PodRange:     netip.MustParsePrefix("10.244.0.0/16"),
			ServiceRange: netip.MustParsePrefix("10.96.0.0/12"),
			HostPodRange: netip.MustParsePrefix("10.244.0.0/24"),
			PodMTU:       1450,
			Endpoint:     "203.0.113.10:6443",
			APIPort:      6443,
			CNI:          "bridge",
			Binaries:     "/usr/local/bin",
			CNIBinaries:  "/usr/lib/cni",
			PauseImage:   "registry.k8s.io/pause:3.10.1",
			ExtraArgs: map[string]map[string]string{
				"kube-apiserver": {"audit-log-maxage": "7", "feature-gates": "A=true,B=false"},
				"kubelet":        {"node-labels": "disk=ssd", "v": "2"},
			},
			Config: map[string]map[string]any{
				"kubelet":    {"maxPods": int64(50), "authentication": map[string]any{"webhook": map[string]any{"cacheTTL": "1m"}}},
				"kube-proxy": {"conntrack": map[string]any{"maxPerCore": int64(0)}},
				"containerd": {"plugins": map[string]any{"io.containerd.cri.v1.runtime": map[string]any{"restrict_oom_score_adj": true}}},
			},
		},
		Etcd: hosts.Etcd{
			QuotaBytes: 8 << 30, ClientPort: 2379, PeerPort: 2380,
			HeartbeatInterval: 100 * time.Millisecond, ElectionTimeout: time.Second,
		},
		Defined: map[string]string{"kubernetes.version": "cluster.toml:3"},
	}
}

// mesh is one host of three that are joined by WireGuard, with Vault as issuer
// and a CNI of the fleet's own.
func mesh() *hosts.Spec {
	s := single()
	s.Name, s.Cluster = "soarin", "k8s-235"
	s.Address = netip.MustParseAddr("10.235.0.1")
	s.PKI.Issuer = "vault"
	s.Peers = []hosts.Peer{
		{Name: "sassaflash", Roles: allRoles, Address: netip.MustParseAddr("10.235.0.2")},
		{Name: "stormfeather", Roles: allRoles, Address: netip.MustParseAddr("10.235.0.3")},
	}
	s.Kubernetes.HostPodRange = netip.Prefix{}
	s.Kubernetes.Endpoint = "k8s-235.example.net:6443"
	s.Kubernetes.CNI = "none"
	s.Kubernetes.CNIBinaries = "/opt/cni/bin"
	s.Kubernetes.ExtraArgs, s.Kubernetes.Config = nil, nil
	s.Etcd.Existing = true
	s.Defined["kubernetes.binaries"] = "cluster.toml:12"
	return s
}
