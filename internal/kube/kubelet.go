package kube

import (
	"net/netip"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

func kubelet(spec *hosts.Spec, root layout.Root) component {
	settings := kubeletConfig(spec, root)
	config := yamlFile(filepath.Join(root.Component(layout.Kubelet), "config.yaml"), 0o600, settings)
	return component{
		name:        layout.Kubelet,
		description: "Kubernetes node agent of " + spec.Name,
		flags: flags{
			{"config", config.Path},
			{"kubeconfig", root.Kubeconfig(layout.Kubelet)},
			{"hostname-override", spec.Name},
			{"node-ip", spec.Address.String()},
		},
		files: []units.File{config, kubeconfig(spec, root, layout.Kubelet, layout.CertKubeletClient)},
		service: []string{
			"Type=notify",
			"TimeoutStartSec=3min",
			// What the kubelet has mounted by helpers such as FUSE must outlive
			// its restart.
			"KillMode=process",
			"CPUAccounting=yes",
			"MemoryAccounting=yes",
			"TasksMax=infinity",
		},
		after:   []string{layout.Containerd},
		needs:   []string{layout.Containerd},
		ready:   plainProbe(settings["healthzBindAddress"], settings["healthzPort"], "/healthz", 3*time.Minute),
		effect:  plan.Restart,
		restart: clientFiles(spec, root, layout.CertKubeletClient),
	}
}

// kubeletConfig is the KubeletConfiguration of kubelet.config.k8s.io/v1beta1
// with the fleet's settings merged over it.
func kubeletConfig(spec *hosts.Spec, root layout.Root) map[string]any {
	serving := root.Certificate(layout.CertKubeletServer)
	config := object{
		"address":      spec.Address.String(),
		"readOnlyPort": 0,
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": root.Trust(layout.CAK8sClient)},
		},
		"authorization":         object{"mode": "Webhook"},
		"tlsCertFile":           serving.Cert,
		"tlsPrivateKeyFile":     serving.Key,
		"tlsMinVersion":         "VersionTLS13",
		"rotateCertificates":    false,
		"serverTLSBootstrap":    false,
		"healthzBindAddress":    "127.0.0.1",
		"healthzPort":           10248,
		"clusterDomain":         spec.Domain,
		"clusterDNS":            []any{clusterDNS(spec.Kubernetes.ServiceRange).String()},
		"cgroupDriver":          "systemd",
		"protectKernelDefaults": true,
		"seccompDefault":        true,

		"containerRuntimeEndpoint":        "unix:///run/containerd/containerd.sock",
		"shutdownGracePeriod":             "30s",
		"shutdownGracePeriodCriticalPods": "10s",
		"enableProfilingHandler":          false,
		"enableDebugFlagsHandler":         false,
		// The default lies below /usr, which may be read-only.
		"volumePluginDir": "/var/lib/kubelet/volume-plugins",
	}
	return kind(merge(config, spec.Kubernetes.Config[layout.Kubelet]), "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
}

// kind names what a configuration file is.
func kind(config map[string]any, apiVersion, name string) map[string]any {
	return merge(config, object{"apiVersion": apiVersion, "kind": name})
}

// clusterDNS is the tenth address of the service range, where a DNS service of
// the cluster is put by convention.
func clusterDNS(services netip.Prefix) netip.Addr {
	addr := services.Masked().Addr()
	for range 10 {
		addr = addr.Next()
	}
	return addr
}
