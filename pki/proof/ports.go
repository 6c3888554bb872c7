package proof

import (
	"net"
	"net/netip"
	"strconv"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The ports of components that are not in the spec are Kubernetes' defaults.
// See https://kubernetes.io/docs/reference/networking/ports-and-protocols/.

func etcdPort(spec *hosts.Spec) Port {
	return Port{
		Component: layout.Etcd, Address: local(spec.Etcd.ClientPort), CA: layout.CAEtcdServer, Path: "/version",
		Greeter: layout.CertNodeagentEtcdClient, // etcd logs every client that presents nothing
	}
}

func etcdPeerPort(spec *hosts.Spec) Port {
	return Port{
		Component: layout.Etcd, Address: at(spec.Address, spec.Etcd.PeerPort), CA: layout.CAEtcdPeer, Path: "/version",
		Greeter: layout.CertEtcdPeer,
	}
}

func apiPort(spec *hosts.Spec) Port {
	return Port{Component: layout.APIServer, Address: local(spec.Kubernetes.APIPort), CA: layout.CAK8sServer, Path: "/api"}
}

func controllerManagerPort() Port {
	return Port{Component: layout.ControllerManager, Address: local(10257), CA: layout.CAK8sServer}
}

func schedulerPort() Port {
	return Port{Component: layout.Scheduler, Address: local(10259), CA: layout.CAK8sServer}
}

// kubeletPort: the kubelet asks whether the user may read nodes/stats, and
// remembers a refusal for half a minute: on a new cluster the binding is not
// there yet, and what kubectl logs and exec need must not be what was refused.
func kubeletPort(spec *hosts.Spec) Port {
	return Port{Component: layout.Kubelet, Address: at(spec.Address, 10250), CA: layout.CAK8sServer, Path: "/stats/proof"}
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func at(address netip.Addr, port int) string {
	return netip.AddrPortFrom(address.WithZone(""), uint16(port)).String()
}
