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

// Port is where a component answers, and how one speaks with it.
type Port struct {
	// Component is one of the layout's components.
	Component string
	// Address is host:port.
	Address string
	// CA is the authority that signs what the port shows, one of the layout.CA…
	// constants.
	CA string
	// Greeter is the pair with which it is asked what it shows; empty for none.
	Greeter string
	// Path is what a client asks for: something that is only read, and whose
	// answer depends on who asks.
	Path string
}

// name is what the port's certificate must be valid for.
func (p Port) name() string {
	host, _, _ := net.SplitHostPort(p.Address)
	return host
}

// Check is one question to one live port.
type Check struct {
	Port
	// Certificate is the pair that is asked about, one of the layout.Cert…
	// constants.
	Certificate string
	// Client tells that the pair is tried as a client's; else it is the one that
	// the port must show.
	Client bool
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

// SelfReload is for how long a component may go on with its old pair before it
// is restarted. Kubernetes' components are told by the file system and look
// once more each minute (k8s.io/apiserver/pkg/server/dynamiccertificates).
const SelfReload = 70 * time.Second

// Want returns what the spec's roles must prove, for the pairs that have is.
// A pair that is missing or damaged on disk is not in it: issuing it is the
// business of domain pki.
func Want(spec *hosts.Spec, have pki.State, now time.Time) State {
	w := wanter{have: have, now: now}
	if spec.Has(hosts.RoleEtcd) {
		etcd, peer := etcdPort(spec), etcdPeerPort(spec)
		w.server(layout.CertEtcdServer, etcd)
		w.server(layout.CertEtcdPeer, peer)
		w.client(layout.CertEtcdPeer, peer)
		w.client(layout.CertNodeagentEtcdClient, etcd)
	}
	if spec.Has(hosts.RoleControlPlane) {
		w.controlPlane(spec)
	}
	if spec.Has(hosts.RoleWorker) {
		w.worker(spec)
	}
	return w.state
}

func (w *wanter) controlPlane(spec *hosts.Spec) {
	api := apiPort(spec)
	w.server(layout.CertAPIServer, api)
	w.server(layout.CertControllerManagerServer, controllerManagerPort())
	w.server(layout.CertSchedulerServer, schedulerPort())
	for _, name := range []string{
		layout.CertControllerManagerClient, layout.CertSchedulerClient, layout.CertAdmin, layout.CertFrontProxyClient,
	} {
		w.client(name, api)
	}
	if spec.Has(hosts.RoleEtcd) {
		w.client(layout.CertAPIServerEtcdClient, etcdPort(spec))
	}
}

func (w *wanter) worker(spec *hosts.Spec) {
	api, kubelet := apiPort(spec), kubeletPort(spec)
	w.server(layout.CertKubeletServer, kubelet)
	if spec.Has(hosts.RoleControlPlane) {
		w.client(layout.CertAPIServerKubeletClient, kubelet)
	} else {
		api.Address = spec.Kubernetes.Endpoint
	}
	w.client(layout.CertKubeletClient, api)
	w.client(layout.CertKubeProxy, api)
}

// wanter gathers checks.
type wanter struct {
	have  pki.State
	now   time.Time
	state State
}

func (w *wanter) server(certificate string, at Port) {
	w.add(Check{Port: at, Certificate: certificate})
}

func (w *wanter) client(certificate string, at Port) {
	w.add(Check{Port: at, Certificate: certificate, Client: true})
}

func (w *wanter) add(c Check) {
	found := w.have.Pair(c.Certificate)
	if found.Condition != pki.Sound {
		return
	}
	c.Serial, c.PutBack = found.Serial, w.now.Before(found.PreviousEnd)
	w.state.Checks = append(w.state.Checks, c)
}
