package kube

import (
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

const (
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

func controllerManager(spec *hosts.Spec, root layout.Root) component {
	state := filepath.Join(root.State(), layout.ControllerManager)
	c := controller(spec, root, layout.ControllerManager, controllerManagerPort,
		layout.CertControllerManagerClient, layout.CertControllerManagerServer)
	c.description = "Kubernetes controller manager of cluster " + spec.Cluster
	c.flags = append(c.flags, flags{
		{"cluster-name", spec.Cluster},
		{"root-ca-file", root.Trust(layout.CAK8sServer)},
		{"service-account-private-key-file", root.ServiceAccountKey()},
		{"use-service-account-credentials", "true"},
		{"service-cluster-ip-range", spec.Kubernetes.ServiceRange.String()},
		// Made at start even where no such plugin exists; the default lies
		// below /usr.
		{"flex-volume-plugin-dir", filepath.Join(state, "volume-plugins")},
	}...)
	c.flags = append(c.flags, nodeRanges(spec)...)
	c.service = append(c.service, stateDirectory(root, state)...)
	c.restart = append(c.restart, root.ServiceAccountKey())
	return c
}

// nodeRanges gives each node a part of the pod range where the fleet brings its
// own CNI, which may ask for it; with the bridge the spec has said which part
// each host has.
func nodeRanges(spec *hosts.Spec) flags {
	if spec.Kubernetes.CNI == "bridge" {
		return flags{{"allocate-node-cidrs", "false"}}
	}
	f := flags{
		{"allocate-node-cidrs", "true"},
		{"cluster-cidr", spec.Kubernetes.PodRange.String()},
	}
	// The default size of a node's part, 24 or 64 bits, must fit the range.
	if bits := spec.Kubernetes.PodRange.Bits(); spec.Kubernetes.PodRange.Addr().Is4() && bits > 24 ||
		!spec.Kubernetes.PodRange.Addr().Is4() && bits > 64 {
		f = append(f, option{"node-cidr-mask-size", strconv.Itoa(bits)})
	}
	return f
}

func scheduler(spec *hosts.Spec, root layout.Root) component {
	c := controller(spec, root, layout.Scheduler, schedulerPort,
		layout.CertSchedulerClient, layout.CertSchedulerServer)
	c.description = "Kubernetes scheduler of cluster " + spec.Cluster
	return c
}

// controller is what the controller manager and the scheduler share: clients of
// the API server that elect a leader and serve health and metrics on loopback.
func controller(spec *hosts.Spec, root layout.Root, name string, port int, clientCert, serverCert string) component {
	config := root.Kubeconfig(name)
	serving := root.Certificate(serverCert)
	own := flags{
		{"kubeconfig", config},
		{"authentication-kubeconfig", config},
		{"authorization-kubeconfig", config},
		{"bind-address", loopback.String()},
		{"secure-port", strconv.Itoa(port)},
		{"tls-cert-file", serving.Cert},
		{"tls-private-key-file", serving.Key},
		{"tls-min-version", "VersionTLS13"},
		{"profiling", "false"},
		{"leader-elect", "true"},
	}
	// The probe follows what the fleet puts over these flags.
	final := own.with(spec.Kubernetes.ExtraArgs[name])
	return component{
		name:      name,
		flags:     own,
		files:     []units.File{kubeconfig(spec, root, name, clientCert)},
		hardening: hardening{on: true},
		service:   []string{"Type=exec", "TimeoutStopSec=30s"},
		after:     []string{layout.APIServer},
		needs:     []string{layout.APIServer},
		ready: &units.Probe{
			URL:     "https://" + net.JoinHostPort(reachable(final.value("bind-address")), final.value("secure-port")) + "/healthz",
			CA:      root.Trust(layout.CAK8sServer),
			Timeout: 2 * time.Minute,
		},
		effect:  plan.Restart,
		restart: clientFiles(spec, root, clientCert),
	}
}
