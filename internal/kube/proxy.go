package kube

import (
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

func kubeProxy(spec *hosts.Spec, root layout.Root) component {
	settings := proxyConfig(spec, root)
	config := yamlFile(filepath.Join(root.Component(layout.KubeProxy), "config.yaml"), 0o600, settings)
	host, port, err := net.SplitHostPort(fmt.Sprint(settings["healthzBindAddress"]))
	if err != nil { // an address alone: the port is kube-proxy's default
		host, port = fmt.Sprint(settings["healthzBindAddress"]), "10256"
	}
	var programs []units.Program
	if settings["mode"] == "nftables" {
		programs = []units.Program{{Name: "nft", Missing: "kube-proxy runs it; install the package nftables"}}
	}
	return component{
		name:        layout.KubeProxy,
		description: "Kubernetes service proxy of " + spec.Name,
		flags:       flags{{"config", config.Path}},
		files:       []units.File{config, kubeconfig(spec, root, layout.KubeProxy, layout.CertKubeProxy)},
		hardening: hardening{
			on: true,
			// nftables and the network's sysctls; health checks of services on
			// any port.
			capabilities: []string{"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"},
			tunables:     true,
		},
		service: []string{"Type=exec", "TimeoutStopSec=30s", "OOMScoreAdjust=-999"},
		// It waits for the node, which the kubelet registers.
		after: []string{layout.Kubelet},
		needs: ownServer(spec),
		// /healthz would also say whether the node is about to be removed.
		ready: plainProbe(host, port, "/livez", 2*time.Minute),
		server: &units.Server{
			Name:  "an API server",
			Probe: units.Probe{URL: apiServerURL(spec) + "/readyz", CA: root.Trust(layout.CAK8sServer)},
		},
		programs: programs,
		effect:   plan.Restart,
		restart:  clientFiles(spec, root, layout.CertKubeProxy),
	}
}

// proxyConfig is the KubeProxyConfiguration of
// kubeproxy.config.k8s.io/v1alpha1 with the fleet's settings merged over it.
func proxyConfig(spec *hosts.Spec, root layout.Root) map[string]any {
	config := object{
		"mode":               "nftables",
		"hostnameOverride":   spec.Name,
		"clientConnection":   object{"kubeconfig": root.Kubeconfig(layout.KubeProxy)},
		"clusterCIDR":        spec.Kubernetes.PodRange.String(),
		"detectLocalMode":    "ClusterCIDR",
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"enableProfiling":    false,
	}
	return kind(merge(config, spec.Kubernetes.Config[layout.KubeProxy]), "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")
}
