// Package layout says where files lie on a host. It is pure: it joins names
// and touches no disk. Every other package asks it, so that the certificate
// that pki writes is the one that a component's flags name.
//
// Everything that nodeagent writes lies below /var/lib/nodeagent, except unit
// files (which systemd reads from its own folders). Tests pass another root.
package layout

import "path/filepath"

// Root is the folder that stands for "/": empty on a real host, a temporary
// folder in tests.
type Root string

func (r Root) join(elem ...string) string {
	return filepath.Join(append([]string{string(r) + "/"}, elem...)...)
}

// Fleet is the default folder of the fleet's TOML files.
func (r Root) Fleet() string { return r.join("etc/nodeagent/fleet") }

// State is the folder below which nodeagent keeps what it writes; mode 0700.
func (r Root) State() string { return r.join("var/lib/nodeagent") }

// Program is a link to the nodeagent that keeps the host, for units that run a
// part of it.
func (r Root) Program() string { return filepath.Join(r.State(), "program") }

// Components is the folder above the components' folders.
func (r Root) Components() string { return filepath.Join(r.State(), "components") }

// Component is the folder of one component's configuration files, for example
// /var/lib/nodeagent/components/kubelet.
func (r Root) Component(name string) string {
	return filepath.Join(r.Components(), name)
}

// Kubeconfig is the kubeconfig file of one client of the API server. It names
// certificate files rather than holding them, so that rotation needs no
// rewriting.
func (r Root) Kubeconfig(name string) string {
	return filepath.Join(r.Component(name), "kubeconfig")
}

// EtcdData is etcd's data folder; mode 0700.
func (r Root) EtcdData() string { return r.join("var/lib/nodeagent/etcd/data") }

// EtcdMarker is the file that says that etcd has once been healthy on this
// host. It outlives the data folder: while it is there, an empty data folder
// is lost data and etcd must not be started.
func (r Root) EtcdMarker() string { return r.join("var/lib/nodeagent/etcd/initialised") }

// EtcdStart is the environment file that says how etcd begins without data: its
// initial cluster, and whether that is new or exists. Without it and without
// data etcd's unit does not start.
func (r Root) EtcdStart() string { return r.join("var/lib/nodeagent/etcd/start.env") }

// EtcdReplaced is the file that says that etcd's data here is of a cluster that
// another one has taken the place of. While it is there etcd's unit does not start.
func (r Root) EtcdReplaced() string { return r.join("var/lib/nodeagent/etcd/replaced") }

// EtcdRuntime is the folder of etcd's socket; mode 0700. It is etcd's unit's
// own, which systemd makes with it and removes after it.
func (r Root) EtcdRuntime() string { return r.join("run/nodeagent-etcd") }

// EtcdSocket is where etcd takes requests of its own host besides TCP, in the
// clear and of whoever may enter the folder.
func (r Root) EtcdSocket() string { return filepath.Join(r.EtcdRuntime(), "client.sock") }

// Snapshots is the default folder of etcd snapshots.
func (r Root) Snapshots() string { return filepath.Join(r.State(), "snapshots") }

// SnapshotKey is the PEM private key with which the host signs the manifests of
// its snapshots; mode 0600.
func (r Root) SnapshotKey() string { return filepath.Join(r.State(), "snapshot.key") }

// Drills is the file that says what the drills of snapshots found; mode 0600.
func (r Root) Drills() string { return filepath.Join(r.State(), "drills.json") }

// Scratch is the folder for what lies unsealed on disk for as long as a command
// needs it, in files without a name; mode 0700.
func (r Root) Scratch() string { return filepath.Join(r.State(), "scratch") }

// Confirm is the folder of what is remembered of network changes that await
// confirmation, or were undone; mode 0700.
func (r Root) Confirm() string { return filepath.Join(r.State(), "confirm") }

// Runtime is the folder for sockets and locks that need not survive a reboot.
func (r Root) Runtime() string { return r.join("run/nodeagent") }

// PKI is the folder of certificates, keys and trust bundles; mode 0700.
func (r Root) PKI() string { return filepath.Join(r.State(), "pki") }

// CertificateFiles are the files of one issued certificate. All three lie in
// one generation folder that the link Dir points to, so that one rename of the
// link switches them together.
type CertificateFiles struct {
	Dir  string // the link, …/certs/<name>/current
	Cert string // PEM, the leaf first, then intermediates
	Key  string // PEM, PKCS #8, mode 0600
	CA   string // PEM, the bundle against which the leaf's peers are checked by default: its own issuer's
}

// Certificate returns the files of the certificate with the given name, one of
// the Cert… constants.
func (r Root) Certificate(name string) CertificateFiles {
	dir := filepath.Join(r.PKI(), "certs", name, "current")
	return CertificateFiles{
		Dir:  dir,
		Cert: filepath.Join(dir, "tls.crt"),
		Key:  filepath.Join(dir, "tls.key"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
}

// Trust is the PEM bundle of the certificates of one CA, one of the CA…
// constants: what a component reads to check its peers.
func (r Root) Trust(ca string) string { return filepath.Join(r.PKI(), "trust", ca+".crt") }

// ServiceAccountKey is the PEM private key that signs service account tokens.
// ServiceAccountPublic is the PEM bundle of public keys that check them.
func (r Root) ServiceAccountKey() string {
	return filepath.Join(r.PKI(), "keys", "service-account", "current", "sa.key")
}

// ServiceAccountPublic is the PEM bundle of the public keys that check service
// account tokens; it is switched together with ServiceAccountKey.
func (r Root) ServiceAccountPublic() string {
	return filepath.Join(r.PKI(), "keys", "service-account", "current", "sa.pub")
}

// EncryptionConfig is kube-apiserver's EncryptionConfiguration file, which
// holds the encryption-at-rest keys; mode 0600.
func (r Root) EncryptionConfig() string {
	return filepath.Join(r.PKI(), "keys", "encryption", "current", "encryption.yaml")
}

// LocalCA is the folder of one CA of the local issuer; it holds ca.crt and,
// mode 0600, ca.key, or ca.key.age where the keys are encrypted at rest. It
// exists only where the issuer is "local".
func (r Root) LocalCA(ca string) string { return filepath.Join(r.State(), "ca", ca) }

// LocalKeyring is the file that opens the keys of the local issuer's CAs where
// they are encrypted at rest, itself encrypted; mode 0600.
func (r Root) LocalKeyring() string { return filepath.Join(r.State(), "ca", "keyring.json") }

// Enrolment is the folder of what this host logs in to Vault with until it has
// a certificate of its own, or where the fleet chose AppRole; mode 0700. It
// exists only where the issuer is "vault".
func (r Root) Enrolment() string { return filepath.Join(r.State(), "enrolment") }

// Operations is the folder of what is remembered of operations that take many
// steps, such as changing a CA; mode 0700.
func (r Root) Operations() string { return filepath.Join(r.State(), "operations") }

// LocalCABeside is the folder of a second CA of the local issuer under the same
// name, while one is changed for another: what it signed is trusted as well,
// and it signs nothing.
func (r Root) LocalCABeside(ca string) string { return r.LocalCA(ca) + ".beside" }

// UnitPrefix begins the name of every systemd unit that nodeagent owns.
const UnitPrefix = "nodeagent-"

// Unit is the systemd unit name of a component: "nodeagent-etcd.service".
func Unit(component string) string { return UnitPrefix + component + ".service" }

// The components that run as units, in the order in which they start.
const (
	Etcd              = "etcd"
	Containerd        = "containerd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	KubeProxy         = "kube-proxy"
)

// The certificate authorities, separate so that a key stolen from one cannot
// speak for another.
const (
	CAEtcdServer = "etcd-server" // etcd servers and clients
	CAEtcdPeer   = "etcd-peer"
	CAK8sServer  = "k8s-server"
	CAK8sClient  = "k8s-client"
	CAFrontProxy = "front-proxy"
	CANodeagent  = "nodeagent" // the agents themselves, towards Vault and each other
)

// CAs lists every certificate authority.
func CAs() []string {
	return []string{CAEtcdServer, CAEtcdPeer, CAK8sServer, CAK8sClient, CAFrontProxy, CANodeagent}
}

// The certificates that a host may hold.
const (
	CertEtcdServer              = "etcd-server"
	CertEtcdPeer                = "etcd-peer"
	CertAPIServerEtcdClient     = "apiserver-etcd-client"
	CertNodeagentEtcdClient     = "nodeagent-etcd-client"
	CertAPIServer               = "kube-apiserver"
	CertAPIServerKubeletClient  = "apiserver-kubelet-client"
	CertFrontProxyClient        = "front-proxy-client"
	CertKubeletServer           = "kubelet-server"
	CertKubeletClient           = "kubelet-client"
	CertControllerManagerClient = "kube-controller-manager"
	CertControllerManagerServer = "kube-controller-manager-server"
	CertSchedulerClient         = "kube-scheduler"
	CertSchedulerServer         = "kube-scheduler-server"
	CertKubeProxy               = "kube-proxy"
	CertAdmin                   = "admin"
	CertNodeagent               = "nodeagent" // the host itself, towards Vault
)

// AdminGroup is the Kubernetes group of the admin certificate, bound to
// cluster-admin by nodeagent. Unlike system:masters it can be taken away.
const AdminGroup = "nodeagent:admins"

// KubeletAPIGroup is the Kubernetes group of kube-apiserver's client
// certificate towards kubelets, bound to ClusterRole system:kubelet-api-admin.
const KubeletAPIGroup = "nodeagent:kubelet-api-admins"

// Admin names the administrator's component folder and kubeconfig.
const Admin = "admin"
