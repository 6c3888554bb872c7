package kube

import (
	"net"
	"strconv"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
)

// kubeconfig names the certificate files of one client of the API server,
// rather than holding them, so that a rotation needs no rewriting and client-go
// picks it up by itself.
func kubeconfig(spec *hosts.Spec, root layout.Root, component, certificate string) units.File {
	files := root.Certificate(certificate)
	return yamlFile(root.Kubeconfig(component), 0o600, object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []any{object{
			"name": spec.Cluster,
			"cluster": object{
				"server":                apiServerURL(spec),
				"certificate-authority": root.Trust(layout.CAK8sServer),
			},
		}},
		"users": []any{object{
			"name": component,
			"user": object{
				"client-certificate": files.Cert,
				"client-key":         files.Key,
			},
		}},
		"contexts": []any{object{
			"name":    component + "@" + spec.Cluster,
			"context": object{"cluster": spec.Cluster, "user": component},
		}},
		"current-context": component + "@" + spec.Cluster,
	})
}

// apiServerURL is the API server that the host's clients talk to: its own where
// it has one, so that a host depends on no other, and no component is ever
// newer than the API server that it speaks to while hosts are upgraded one by
// one; the cluster's endpoint elsewhere.
func apiServerURL(spec *hosts.Spec) string {
	if spec.Has(hosts.RoleControlPlane) {
		return "https://" + net.JoinHostPort(loopback.String(), strconv.Itoa(spec.Kubernetes.APIPort))
	}
	return "https://" + spec.Kubernetes.Endpoint
}

// ownServer is the component that apiServerURL leads to, where that is this host's.
func ownServer(spec *hosts.Spec) []string {
	if spec.Has(hosts.RoleControlPlane) {
		return []string{layout.APIServer}
	}
	return nil
}
