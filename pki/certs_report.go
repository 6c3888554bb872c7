package pki

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// How far the power of a key reaches.
const (
	ReachCluster = "cluster" // whoever has it has the whole cluster
	ReachHost    = "host"    // one host, or what one component may do
	ReachNone    = "none"    // it has ended, or nobody accepts it
)

// Power is what somebody could do who had a copy of one of a host's keys.
type Power struct {
	// Key says which: "certificate etcd-peer", "authority k8s-client".
	Key  string `json:"key"`
	File string `json:"file"`
	// Reach is one of the Reach… constants.
	Reach string `json:"reach"`
	// As is who it can pass for, and Can what they may do; Signs is what it can
	// sign. Either may be empty.
	As    string `json:"as,omitempty"`
	Can   string `json:"can,omitempty"`
	Signs string `json:"signs,omitempty"`
	// AcceptedBy is who believes it.
	AcceptedBy string `json:"accepted_by"`
	// Until is when nobody does any more; zero where that takes a person.
	Until time.Time `json:"until,omitzero"`
	// Ending is how to end it before.
	Ending string `json:"ending"`
}

// Powers are those of all keys that were seen on the host, by what is certified
// or configured: certificates in use and the ones before them, authorities, the
// control planes' secrets, and what the host logs in and speaks WireGuard with.
func Powers(root layout.Root, spec *hosts.Spec, have State, now time.Time) []Power {
	p := powers{root: root, spec: spec, have: have, now: now, want: Want(spec)}
	p.certificates()
	p.authorities()
	p.secrets()
	p.logins()
	p.wireGuard()
	return p.list
}

type powers struct {
	root       layout.Root
	spec       *hosts.Spec
	have, want State
	now        time.Time
	list       []Power
}

func (p *powers) add(one Power) {
	if !one.Until.IsZero() && !p.now.Before(one.Until) {
		one.Reach = ReachNone
	}
	p.list = append(p.list, one)
}

func (p *powers) certificates() {
	for _, c := range p.have.Certificates {
		at := p.root.Certificate(c.Name)
		if c.Found.Serial != "" {
			p.certificate("certificate "+c.Name, at.Key, c)
		}
		if before := previousCertificate(p.root, c.Name); before != nil {
			p.certificate("certificate "+c.Name+", the one before", filepath.Join(filepath.Dir(at.Dir), previousFolder, filepath.Base(at.Key)), *before)
		}
	}
	owed, _ := owedRevocations(p.root) // who may not read the note may not read the key
	for _, o := range owed {
		if chain, err := parseCertificates(o.Chain); err == nil {
			c := Certificate{Request: describe(chain[0]), Found: Found{NotAfter: o.NotAfter}}
			c.Name = o.Name
			p.certificate("certificate "+o.Name+", to be revoked", o.file(p.root), c)
		}
	}
}

// certificate adds one leaf. What it may do follows from what is certified, and
// from the CA, since that is all that a server sees.
func (p *powers) certificate(key, file string, c Certificate) {
	one := Power{Key: key, File: file, Until: c.Found.NotAfter, Reach: ReachHost}
	w := p.want.certificate(c.Name)
	if w == nil {
		one.AcceptedBy, one.Ending = "whoever trusts the CA that signed it", "nodeagent apply removes it: no role of this host asks for it"
		p.add(one)
		return
	}
	one.Ending = "nodeagent certs rotate-ca " + w.CA
	switch w.CA {
	case layout.CAEtcdServer, layout.CAEtcdPeer:
		p.etcd(&one, w.CA, c.Request)
	case layout.CAK8sServer:
		p.server(&one, c.Request)
	case layout.CAK8sClient:
		kubernetesClient(&one, c.Request)
	case layout.CAFrontProxy:
		one.Reach = ReachCluster
		one.As = "any user of Kubernetes, " + BreakGlassGroup + " included, by the headers X-Remote-User and X-Remote-Group"
		one.Can, one.AcceptedBy = "everything", "kube-apiserver of every control plane"
	case layout.CANodeagent:
		p.login(&one, "by TLS certificate auth")
	}
	p.add(one)
}

func (p *powers) etcd(one *Power, ca string, r Request) {
	one.Reach = ReachCluster
	if ca == layout.CAEtcdPeer {
		one.As, one.Can = "a member of etcd", "everything in etcd: read, change and delete all of Kubernetes' objects"
		one.AcceptedBy = "the peer port of every etcd member"
		return
	}
	one.As = "a client of etcd, which does not tell its clients apart"
	if r.Server {
		one.As = fmt.Sprintf("etcd at %s, and a client of etcd, which does not tell its clients apart", strings.Join(allNames(r), ", "))
	}
	one.Can = "everything in etcd: read, change and delete all of Kubernetes' objects; Secrets are read with the encryption key"
	one.AcceptedBy = "the client port of every etcd member"
}

// server: clients check the CA and the name alone, so a certificate for
// localhost passes for any of the host's servers there.
func (p *powers) server(one *Power, r Request) {
	one.As = "any server of Kubernetes at " + strings.Join(allNames(r), ", ")
	one.Can = "see what is sent there, and answer it, where traffic is led astray"
	switch {
	case slices.Contains(r.DNSNames, "kubernetes"):
		one.Reach = ReachCluster
		one.Can = "take the tokens of all who are led there, and answer them anything"
		one.AcceptedBy = "every client of kube-apiserver: kubelets, controllers, pods, people"
	case slices.Contains(r.DNSNames, "localhost"):
		one.AcceptedBy = "the clients of kube-apiserver on the same host, and who asks the component for its metrics"
	default:
		one.AcceptedBy = "kube-apiserver, for logs and commands in pods"
	}
}

// kubernetesClient is what kube-apiserver lets a user do by the bindings that
// Kubernetes and nodeagent make; others may bind more to a user.
func kubernetesClient(one *Power, r Request) {
	one.As = "user " + r.CommonName
	if r.Organization != "" {
		one.As += " of group " + r.Organization
	}
	one.AcceptedBy = "kube-apiserver of every control plane"
	switch {
	case r.Organization == BreakGlassGroup:
		one.Reach, one.Can = ReachCluster, "everything in Kubernetes, whatever RBAC says"
	case r.Organization == layout.AdminGroup:
		one.Reach, one.Can = ReachCluster, "everything in Kubernetes (cluster-admin)"
		one.Ending += ", or remove ClusterRoleBinding " + layout.AdminGroup + ", from all administrators"
	case r.Organization == layout.KubeletAPIGroup:
		one.Reach, one.Can = ReachCluster, "run commands in every container of every host, read all logs"
		one.AcceptedBy = "every kubelet, and kube-apiserver"
	case strings.HasPrefix(r.CommonName, userNode):
		one.Can = "what the node may: read its pods' Secrets and ConfigMaps, report its state"
	case r.CommonName == userProxy:
		one.Can = "read services, endpoints and nodes"
	case r.CommonName == "system:kube-controller-manager":
		one.Reach, one.Can = ReachCluster, "read all Secrets, make tokens of every service account"
	case r.CommonName == "system:kube-scheduler":
		one.Can = "bind pods to nodes, read all pods"
	default:
		one.Can = "what is bound to the user or the group"
	}
}

// login is what the host's identity at Vault is worth: all that its policy
// allows.
func (p *powers) login(one *Power, how string) {
	one.As, one.AcceptedBy = fmt.Sprintf("host %s, %s", p.spec.Name, how), "Vault"
	if p.spec.PKI.Vault != nil {
		one.AcceptedBy += " at " + p.spec.PKI.Vault.Address
	}
	one.Can = "have every certificate of this host signed, for keys of its own"
	one.Ending = "remove the host from the fleet and run nodeagent pki bootstrap; then enrol it anew"
	switch {
	case p.spec.Has(hosts.RoleControlPlane):
		one.Reach = ReachCluster
		one.Can += ", one of group " + BreakGlassGroup + " among them; read the service-account and encryption keys"
	case p.spec.Has(hosts.RoleEtcd):
		one.Reach = ReachCluster
		one.Can += ", clients and a peer of etcd among them"
	}
}

// signs is what holds for the key of each CA.
var signs = map[string][2]string{
	layout.CAEtcdServer: {"any etcd server and any client of etcd, hence everything in etcd", "etcd, kube-apiserver, nodeagent"},
	layout.CAEtcdPeer:   {"any member of etcd, hence everything in etcd", "the peer port of every etcd member"},
	layout.CAK8sServer:  {"any server of Kubernetes, kube-apiserver included", "every client of kube-apiserver, and kube-apiserver towards kubelets"},
	layout.CAK8sClient:  {"any user of Kubernetes, " + BreakGlassGroup + " included", "kube-apiserver and every kubelet"},
	layout.CAFrontProxy: {"a front proxy, which can name any user of Kubernetes", "kube-apiserver of every control plane"},
	layout.CANodeagent:  {"any host, towards Vault", "Vault"},
}

func (p *powers) authorities() {
	for _, a := range p.have.Authorities {
		p.authority("authority "+a.Name, p.root.LocalCA(a.Name), a)
		if other := readAuthority(p.root.LocalCABeside(a.Name), a.Name); other.Condition != Missing {
			p.authority("authority "+a.Name+", the one beside", p.root.LocalCABeside(a.Name), other.Authority)
		}
	}
}

func (p *powers) authority(key, dir string, a Authority) {
	file := authorityKey
	if a.Encrypted {
		file = authorityKeySealed // worth nothing without what opens it
	}
	p.add(Power{
		Key: key, File: filepath.Join(dir, file), Reach: ReachCluster,
		Signs: signs[a.Name][0], AcceptedBy: signs[a.Name][1], Until: a.NotAfter, Ending: "nodeagent certs rotate-ca " + a.Name,
	})
}

func (p *powers) secrets() {
	for _, k := range p.have.Keys {
		switch {
		case k.Condition == Missing:
		case k.Name == KeyServiceAccount:
			p.add(Power{
				Key: "key " + k.Name, File: p.root.ServiceAccountKey(), Reach: ReachCluster,
				Signs: "tokens of every service account, those of kube-system included", AcceptedBy: "kube-apiserver of every control plane, and who trusts its tokens",
				Ending: "nodeagent certs rotate-key service-account",
			})
		case k.Name == KeyEncryption:
			p.add(Power{
				Key: "key " + k.Name, File: p.root.EncryptionConfig(), Reach: ReachCluster,
				Can: "read every Secret in a copy of etcd's data or a snapshot of it", AcceptedBy: "nobody: it opens what was written with it",
				Ending: "nodeagent certs rotate-key encryption, and no copy left of the data that this one wrote",
			})
		}
	}
}

// logins adds what the host logs in to Vault with beside its certificate.
func (p *powers) logins() {
	if p.spec.PKI.Issuer != IssuerVault || p.spec.PKI.Vault == nil {
		return
	}
	files := map[string]string{"secret id": filepath.Join(p.root.Enrolment(), "approle.json"), "token": p.spec.PKI.Vault.JWTFile}
	for _, key := range []string{"secret id", "token"} {
		if _, err := os.Stat(files[key]); files[key] == "" || err != nil {
			continue
		}
		one := Power{Key: key, File: files[key], Reach: ReachHost}
		p.login(&one, "by AppRole")
		if key == "token" {
			p.login(&one, "by JWT")
		}
		p.add(one)
	}
}

func (p *powers) wireGuard() {
	wg := p.spec.Network.WireGuard
	if wg == nil {
		return
	}
	file := filepath.Join(p.root.State(), "wireguard", "private.key")
	if _, err := os.Stat(file); err != nil {
		return
	}
	p.add(Power{
		Key: "WireGuard " + wg.Interface, File: file, Reach: ReachHost,
		As:  fmt.Sprintf("this host in the mesh, %s", wg.Address.Addr()),
		Can: "take the host's traffic, and reach what the mesh opens to it", AcceptedBy: "the host's WireGuard peers",
		Ending: "another key pair, its public half in the fleet",
	})
}
