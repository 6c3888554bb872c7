// Package proof compares what a host's components really use with the
// certificates that lie on its disk: the certificate that a live port shows,
// and whether a server takes a client pair for whom it names. A rotation is
// done only when this domain has nothing to say.
//
// Words: a check is one question to one live port; a server check compares the
// serial number that the port shows with the one on disk; a client check speaks
// with the pair and asks whether it was taken.
//
// Nothing of it is remembered: a reload or restart that is still owed shows in
// what the port serves, also after a crash or a reboot. What is kept on disk is
// only that a pair was refused ([pki.Refused]), since the pair itself goes.
package proof

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// Domain is the name of this domain in plans.
const Domain = "proof"

// State is the checks of one host, in the order in which they are made. Want
// and Observe give the same type.
type State struct {
	Checks []Check
}

// Check is one question to one live port.
type Check struct {
	// Certificate is the pair that is asked about, one of the layout.Cert…
	// constants.
	Certificate string
	// Component serves Address, one of the layout's components.
	Component string
	// Client tells that the pair is tried as a client's; else it is the one that
	// the port must show.
	Client bool
	// Address is host:port.
	Address string
	// Name is what the port's certificate must be valid for.
	Name string
	// Serial number in hexadecimal: wanted, that of the pair on disk; observed,
	// that of the certificate that the port showed, or of the client pair that
	// was taken. Empty where nothing was seen.
	Serial string

	// PutBack tells that the pair before this one is there and valid still;
	// wanted only.
	PutBack bool
	// Down tells that nothing listens there, or nothing that answers, which the
	// units domain sees to; observed only.
	Down bool
	// Problem is why the pair was not taken, or why what the port shows cannot
	// be trusted; observed only.
	Problem string
}

// Ports of components that are not in the spec; Kubernetes' defaults.
// See https://kubernetes.io/docs/reference/networking/ports-and-protocols/.
const (
	kubeletPort           = 10250
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

// SelfReload is for how long a component may go on with its old pair before it
// is restarted. Kubernetes' components are told by the file system and look
// once more each minute (k8s.io/apiserver/pkg/server/dynamiccertificates).
const SelfReload = 70 * time.Second

// Want returns what the spec's roles must prove, for the pairs that have is.
// A pair that is missing or damaged on disk is not in it: issuing it is the
// business of domain pki.
func Want(spec *hosts.Spec, have pki.State, now time.Time) State {
	w := wanter{have: have, now: now}
	api := net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.Kubernetes.APIPort))
	etcd, peer := local(spec.Etcd.ClientPort), at(spec.Address, spec.Etcd.PeerPort)
	if spec.Has(hosts.RoleEtcd) {
		w.server(layout.CertEtcdServer, layout.Etcd, etcd)
		w.server(layout.CertEtcdPeer, layout.Etcd, peer)
		w.client(layout.CertEtcdPeer, layout.Etcd, peer)
		w.client(layout.CertNodeagentEtcdClient, layout.Etcd, etcd)
	}
	if spec.Has(hosts.RoleControlPlane) {
		w.server(layout.CertAPIServer, layout.APIServer, api)
		w.server(layout.CertControllerManagerServer, layout.ControllerManager, local(controllerManagerPort))
		w.server(layout.CertSchedulerServer, layout.Scheduler, local(schedulerPort))
		for _, name := range []string{
			layout.CertControllerManagerClient, layout.CertSchedulerClient, layout.CertAdmin, layout.CertFrontProxyClient,
		} {
			w.client(name, layout.APIServer, api)
		}
		if spec.Has(hosts.RoleEtcd) {
			w.client(layout.CertAPIServerEtcdClient, layout.Etcd, etcd)
		}
	}
	if spec.Has(hosts.RoleWorker) {
		w.worker(spec, api)
	}
	return w.state
}

func (w *wanter) worker(spec *hosts.Spec, api string) {
	kubelet := at(spec.Address, kubeletPort)
	w.server(layout.CertKubeletServer, layout.Kubelet, kubelet)
	if spec.Has(hosts.RoleControlPlane) {
		w.client(layout.CertAPIServerKubeletClient, layout.Kubelet, kubelet)
	} else {
		api = spec.Kubernetes.Endpoint
	}
	w.client(layout.CertKubeletClient, layout.APIServer, api)
	w.client(layout.CertKubeProxy, layout.APIServer, api)
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func at(address netip.Addr, port int) string {
	return netip.AddrPortFrom(address.WithZone(""), uint16(port)).String()
}

// wanter gathers checks.
type wanter struct {
	have  pki.State
	now   time.Time
	state State
}

func (w *wanter) server(certificate, component, address string) {
	w.add(certificate, component, address, false)
}

func (w *wanter) client(certificate, component, address string) {
	w.add(certificate, component, address, true)
}

func (w *wanter) add(certificate, component, address string, client bool) {
	found := w.have.Pair(certificate)
	if found.Condition != pki.Sound {
		return
	}
	name, _, _ := net.SplitHostPort(address)
	w.state.Checks = append(w.state.Checks, Check{
		Certificate: certificate, Component: component, Client: client, Address: address, Name: name,
		Serial: found.Serial, PutBack: w.now.Before(found.PreviousEnd),
	})
}
