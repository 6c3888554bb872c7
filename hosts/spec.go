// Package hosts reads a fleet: a folder with cluster.toml, which all hosts
// share, and one <host>.toml for each host. Loading joins the two, fills in
// defaults, derives what one host needs to know of the others and checks
// everything; an invalid Spec never exists as a value.
//
// Words: a fleet is the folder, a spec is one host's settings after all of
// that, a problem is one line "file:line: field: reason".
package hosts

import (
	"net/netip"
	"slices"
	"time"
)

// Fleet is a valid fleet: every host of it has a valid Spec.
type Fleet struct {
	// Dir is the folder that was loaded.
	Dir string
	// Hosts are the specs of all hosts, sorted by name.
	Hosts []*Spec
	// Warnings are problems that do not make the fleet invalid, such as an even
	// number of etcd members.
	Warnings []Problem
}

// Role is a part that a host plays in the cluster.
type Role string

// The roles.
const (
	RoleControlPlane Role = "control-plane" // kube-apiserver, controller-manager, scheduler
	RoleEtcd         Role = "etcd"
	RoleWorker       Role = "worker" // containerd, kubelet, kube-proxy
)

// Spec is one host's settings: everything that the domains need to know.
// Values are checked and defaults are filled in.
type Spec struct {
	// Name is the host's name: a DNS label, the name of its TOML file.
	Name string
	// Cluster is the name of the cluster; Domain its DNS domain inside
	// (cluster.local by default).
	Cluster, Domain string
	// Roles are sorted and without duplicates; a host may have none of them.
	Roles []Role
	// Address is the node address: the one on which this host's etcd, API
	// server and kubelet are reached by the others.
	Address netip.Addr

	Kernel     Kernel
	Network    Network
	Firewall   Firewall
	PKI        PKI
	Kubernetes Kubernetes
	Etcd       Etcd
	Snapshots  Snapshots
	Metrics    Metrics

	// Names is what the host knows of names without a DNS server's help, and
	// whom it asks otherwise.
	Names Names
	// Drift says by domain ("network") what `run` does about a host that is no
	// longer as the spec says; a domain that is not in it is repaired.
	Drift map[string]Drift

	// Peers are the other hosts of the fleet, sorted by name.
	Peers []Peer

	// Digest is "sha256:<hex>" of the files that the spec was made from, the
	// other hosts' included.
	Digest string
	// Fleet is where those files lie, behind all links, or [Embedded]. On NixOS
	// it is the fleet's store path.
	Fleet string

	// Defined tells where a field was set, "cluster.toml:12" by its dotted TOML
	// path, for errors that name the line to change. Fields that took their
	// default are not in it.
	Defined map[string]string
}

// Has tells whether the host has the role.
func (s *Spec) Has(role Role) bool { return slices.Contains(s.Roles, role) }

// Peer is what a host needs to know of another host of its fleet.
type Peer struct {
	Name    string
	Roles   []Role
	Address netip.Addr
	// PodRange is the peer's own pod range, invalid where it has none.
	PodRange netip.Prefix
	// WireGuard is nil where the peer has no WireGuard device.
	WireGuard *WireGuardPeer
}

// Has tells whether the peer has the role.
func (p Peer) Has(role Role) bool { return slices.Contains(p.Roles, role) }

// Kernel is what the kernel domain sets.
type Kernel struct {
	// Modules are sorted by name.
	Modules []Module
	// Sysctls maps a dotted name (net.ipv4.ip_forward) to its value, written as
	// the kernel prints it. What Kubernetes roles need is filled in by default.
	Sysctls map[string]string
}

// Module is a kernel module with its parameters.
type Module struct {
	Name       string
	Parameters map[string]string
}

// ClientReread is within how long a client of the API servers has its new pair
// in use by itself: client-go looks at the files every five minutes
// (k8s.io/client-go/transport.CertCallbackRefreshDuration), and up to a minute
// goes by until a host has noticed, issued and switched.
const ClientReread = 6 * time.Minute

// PKI is who issues certificates and how long they live.
type PKI struct {
	// Issuer is "local" (CAs on this one host) or "vault".
	Issuer string
	// Lifetime of a certificate and how long before its end it is renewed;
	// RenewBefore is shorter than Lifetime. A spec may say the latter as
	// survive_vault_outage: for so long the host lives on without its issuer.
	Lifetime, RenewBefore time.Duration
	// CALifetime is the lifetime of the CAs that the local issuer makes, or
	// `nodeagent pki bootstrap` in Vault.
	CALifetime time.Duration
	// AdminLifetime is the lifetime of the administrator's certificate.
	AdminLifetime time.Duration
	// KeyType is "ecdsa-p256", "ecdsa-p384", "ed25519" or "rsa-2048".
	KeyType string
	// ExtraNames are further subject alternative names of kube-apiserver's
	// certificate: DNS names or IP addresses.
	ExtraNames []string
	// Local is nil unless the spec has it, with the issuer "local".
	Local *LocalIssuer
	// Vault is nil unless Issuer is "vault".
	Vault *Vault
}

// LocalIssuer is how the local issuer keeps the private keys of its CAs. It
// holds no secret.
type LocalIssuer struct {
	// CAKeys is "plain" (in clear, readable by root), "passphrase" or
	// "credential" (encrypted with it).
	CAKeys string
	// PassphraseFile is a file with the passphrase, which is not beside the keys;
	// empty where people type it. It is for CAKeys "passphrase".
	PassphraseFile string
	// Credential is the name of the systemd credential of nodeagent.service, for
	// CAKeys "credential".
	Credential string
}

// Vault is where the vault issuer is. It holds no secret.
type Vault struct {
	Address string // https URL
	// Mount is the prefix of everything of this cluster in Vault, without
	// slashes at its ends: "pki/rack1" gives the engines pki/rack1/etcd-server,
	// … and the auth methods auth/pki/rack1/cert, …. Two clusters of one Vault
	// have two; the default is "nodeagent/<cluster>".
	Mount  string
	CAFile string // PEM bundle that checks Vault's own certificate; empty: the system's
	// Auth is how hosts log in: "cert" (with the certificate that enrolment
	// gave, renewed by itself), "approle" (with a secret id, rotated by itself)
	// or "jwt" (with a token that others keep fresh in JWTFile).
	Auth    string
	JWTFile string // path of the token; empty unless Auth is "jwt"
	// JWTSubject is the subject of a host's token, {host} standing for its name,
	// and JWTAudience the audience that its token must have; both empty unless
	// Auth is "jwt", and the audience also where tokens have none.
	JWTSubject, JWTAudience string
}

// Kubernetes is the cluster's settings as one host needs them.
type Kubernetes struct {
	// Version without "v": "1.36.3".
	Version string
	// PodRange and ServiceRange of the cluster; HostPodRange is this host's own
	// part of PodRange, valid where CNI is "bridge" and the host is a worker.
	PodRange, ServiceRange, HostPodRange netip.Prefix
	// PodMTU is the MTU of pod interfaces in bytes.
	PodMTU int
	// Endpoint is host:port on which clients reach the API server.
	Endpoint string
	// APIPort is the port on which each kube-apiserver listens.
	APIPort int
	// CNI is "bridge" (nodeagent writes the CNI file) or "none" (the fleet
	// brings its own, such as Cilium).
	CNI string
	// Binaries is the folder of the component binaries, CNIBinaries that of the
	// CNI plugins.
	Binaries, CNIBinaries string
	// PauseImage is the image of the pod sandbox.
	PauseImage string
	// ExtraArgs are further command line flags by component, name without the
	// dashes to value; they win over nodeagent's own.
	ExtraArgs map[string]map[string]string
	// Config is merged over the component's configuration file: keys "kubelet"
	// (KubeletConfiguration), "kube-proxy" (KubeProxyConfiguration) and
	// "containerd" (config.toml). Tables merge, everything else replaces.
	Config map[string]map[string]any
}

// Etcd is the settings of etcd.
type Etcd struct {
	// QuotaBytes is the backend quota; at most 8 GiB.
	QuotaBytes int64
	// ClientPort and PeerPort, 2379 and 2380 by default.
	ClientPort, PeerPort int
	// HeartbeatInterval and ElectionTimeout.
	HeartbeatInterval, ElectionTimeout time.Duration
	// Existing is true where this host must join a cluster that exists and
	// never bootstrap one.
	Existing bool
}

// Snapshots is when etcd snapshots are taken, where they go and how many are
// kept.
type Snapshots struct {
	// Schedule is a calendar expression as systemd.time(7) has them, for
	// example "*-*-* 00/6:00:00"; empty where none are taken by schedule.
	Schedule string
	// By says who takes one at a moment of the schedule: ByEach or ByOne.
	By string
	// Spread is for how long after the moment one may be begun: by each host at a
	// time of its own in it, or by the one host at a time on which all agree.
	Spread time.Duration
	// Drill is when it is tried whether the newest one restores, a calendar
	// expression; empty where that is not done by schedule. DrillSpread is as
	// Spread.
	Drill       string
	DrillSpread time.Duration
	// Keep says which of them stay.
	Keep Retention
	// Destination is a folder on the host.
	Destination string
	// Compression is CompressionZstd or CompressionNone.
	Compression string
	// Recipients are the age public keys of those who can open snapshots; without
	// any, snapshots are not encrypted.
	Recipients []string
	// IdentityFile is a file of age identities on the host, with which nodeagent
	// opens encrypted snapshots; empty where people bring one along.
	IdentityFile string
	// VaultKey is the name of the key in the cluster's KV engine in Vault with
	// which snapshots are encrypted as well, "snapshots"; empty for none.
	VaultKey string
	// PublicKeys are the public halves of the keys with which this host signs its
	// snapshots, the one of today and those of before: Ed25519 in DER, base64.
	// Where there is one, a snapshot of this host that none of them has signed is
	// not believed.
	PublicKeys []string
	// Certificates asks for the host's certificates in the manifests.
	Certificates bool
	// Copies are the further places where snapshots are kept, sorted by name.
	Copies []Copy
}

// Metrics is where `nodeagent run` answers Prometheus.
type Metrics struct {
	// Listen is an address of the host and a port; the zero value is nowhere.
	Listen netip.AddrPort
}

// Retention says which snapshots stay, of each cluster and host by itself:
// those that at least one rule wants. A rule that is zero wants none.
type Retention struct {
	// Last is how many of the newest stay; at least 1 in a spec.
	Last int
	// Hourly, Daily, Weekly and Monthly are for how many hours, days, weeks (from
	// Monday) and months the newest snapshot of each stays, all in UTC. Hours
	// without a snapshot do not count, so that a host that was off for a month
	// does not lose what it has.
	Hourly, Daily, Weekly, Monthly int
	// Within is how long each snapshot stays.
	Within time.Duration
	// Longest is after which time a snapshot goes, whatever the other rules say;
	// zero is never. The newest good one stays all the same.
	Longest time.Duration
}
