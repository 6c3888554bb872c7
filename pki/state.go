// Package pki keeps a host's certificates, their keys, the trust bundles and
// the two secrets of a control plane (the service account key pair and the
// encryption-at-rest key) as its spec wants them: requested by roles, issued,
// renewed before they end, and switched so that nobody ever sees half of one.
//
// Words: a request is a certificate that is wanted; a generation is one folder
// with a key, its certificate and the bundle of its authority; the link
// "current" points to the generation in use; "previous" is a copy of the one
// before it, for going back; an authority is one of the local issuer's CAs; an
// anchor is what a leaf of one authority is checked against.
//
// Invariants:
//   - A private key is made on the host and leaves it never: issuers see
//     certificate signing requests only. Nothing here prints a key.
//   - A key, its certificate and its bundle are switched by one rename; killed
//     or cut off at any point, the next run finds the old generation or the new
//     one in use, and finishes or clears away the rest.
//   - An authority's key and the encryption-at-rest key are made once. They are
//     never replaced, and never deleted, by a plan.
//   - Ownership is by folder: everything below certs, trust and keys in the
//     folder layout.Root.PKI that has a name that this package gives. Other
//     files there are left alone.
package pki

import (
	"io/fs"
	"net/netip"
	"time"
)

// Domain is the name of this domain in plans.
const Domain = "pki"

// Backdate is how far before the moment of issuing a certificate of the local
// issuer begins, so that peers whose clocks lag accept it.
const Backdate = 5 * time.Minute

// State is the certificates and keys of one host. Want and Observe give the
// same type; fields that only one of them fills say so.
type State struct {
	// Host is the host's name; wanted only.
	Host string
	// Authorities are the local issuer's CAs, in the order of layout.CAs.
	// None is wanted where the issuer is not local.
	Authorities []Authority
	// CAKeys is how the authorities' private keys lie on disk.
	CAKeys CAKeys
	// Trust is the trust bundles, in the order of layout.CAs.
	Trust []Bundle
	// Keys are the secrets that are not certificates, sorted by name.
	Keys []Key
	// Certificates are sorted by name.
	Certificates []Certificate

	// EtcdData tells that etcd holds data on this host; observed only.
	EtcdData bool
	// Modes are files and folders with a wrong mode or owner; observed only.
	Modes []Mode
	// Clock is what is known of the clock; observed only, by [ObserveClock].
	Clock Clock
	// Leftovers are paths of temporary files of an interrupted run outside of
	// certificate and key folders; observed only.
	Leftovers []string
}

// Condition is in which state something was found on disk.
type Condition int

// The conditions; a wanted value has the zero value.
const (
	// Missing: nothing is there.
	Missing Condition = iota
	// Sound: complete and consistent in itself.
	Sound
	// Incomplete: what can be derived from the rest is missing or damaged.
	Incomplete
	// Damaged: it cannot be used.
	Damaged
)

// Request is a certificate as it is wanted, or as it is described by one found
// on disk.
type Request struct {
	// Name is one of the layout.Cert… constants.
	Name string
	// CA that signs it, one of the layout.CA… constants; wanted only.
	CA string
	// CommonName and Organization of the subject: to Kubernetes the user and
	// its one group. Organization is empty for none.
	CommonName, Organization string
	// DNSNames and Addresses are the subject alternative names, sorted and
	// without duplicates.
	DNSNames  []string
	Addresses []netip.Addr
	// Server and Client are the extended key usages.
	Server, Client bool
	// KeyType is one that hosts.PKI.KeyType names.
	KeyType string
	// Lifetime from issuing to the end. Found on disk: from NotBefore to
	// NotAfter, hence longer by the issuer's backdating.
	Lifetime time.Duration
	// RenewBefore is how long before its end it is renewed; wanted only.
	RenewBefore time.Duration
	// Slot is when, by the clock, this host may renew it; wanted only.
	Slot Slot
}

// Certificate is one certificate with its key and bundle.
type Certificate struct {
	Request
	// Found is what only observation knows.
	Found Found
}

// usable tells whether a pair found is whole and valid now.
func (c *Certificate) usable(now time.Time) bool {
	return c != nil && c.Found.Condition == Sound && !now.Before(c.Found.NotBefore) && now.Before(c.Found.NotAfter)
}

// Found is what was seen of a certificate on disk.
type Found struct {
	Condition Condition
	// Problem says what is damaged, in words that complete "because …".
	Problem string
	// Serial number in hexadecimal.
	Serial              string
	NotBefore, NotAfter time.Time
	// SignedBy is the key id of the authority to which the chain leads, empty
	// where it leads to none that the host knows.
	SignedBy string
	// Bundle is the digest of ca.crt, empty where it is missing.
	Bundle string
	// PreviousEnd is the end of the pair before this one, which could be put
	// back; zero where there is none that could.
	PreviousEnd time.Time
	// Refused is a later pair that was not taken; nil where there was none.
	Refused *Refused
	// Unfit is that the issuer did not sign what was wanted; nil where it did.
	Unfit *Unfit
	// ChainEnd is the earliest end of the authorities in the chain, the zero
	// time where it holds none.
	ChainEnd time.Time
	// Leftovers are names in the certificate's folder that an interrupted run
	// left: generations that are not in use and temporary files.
	Leftovers []string
}

// Authority is one CA of the local issuer.
type Authority struct {
	// Name is one of the layout.CA… constants.
	Name string
	// Cluster is the organisation in its subject; wanted only.
	Cluster string
	// Lifetime of its certificate, and how long before its end a new
	// certificate is made for the same key; wanted only.
	Lifetime, RenewBefore time.Duration

	// Encrypted tells that its key lies encrypted on disk, and not in clear.
	Encrypted bool

	// The rest is observed only. Condition is Incomplete where the key is
	// sound and the certificate is missing or damaged. Whether an encrypted key
	// belongs to the certificate shows only when it is used.
	Condition Condition
	Problem   string
	// KeyID is the digest of the public key; empty where the key is encrypted
	// and there is no certificate.
	KeyID string
	// Bundle is the digest of ca.crt.
	Bundle              string
	NotBefore, NotAfter time.Time
}

// CAKeys is how the private keys of the local issuer's authorities lie on disk.
type CAKeys struct {
	// Protection is one of the Protect… constants; empty where the issuer is not
	// local, and what lies there is left alone. Observed, it is that of the
	// keyring.
	Protection string

	// The rest is observed only. Condition is that of the keyring, and Problem
	// why it is damaged.
	Condition Condition
	Problem   string
	// Files are the keys found, in the order of layout.CAs.
	Files []CAKey
}

// CAKey is the private key of one authority, as files.
type CAKey struct {
	// Name is the authority's: "etcd-peer", or "etcd-peer beside" while it is one
	// that is being changed for another.
	Name string
	Dir  string
	// Clear and Sealed tell in which forms it is there. It is in both for a
	// moment while it gets from the one into the other.
	Clear, Sealed bool
}

// Bundle is the trusted certificates of one CA, as a file.
type Bundle struct {
	CA string

	// The rest is observed only.
	Condition Condition
	Problem   string
	// Digest of the file.
	Digest string
	// KeyIDs are the digests of the certificates' public keys, in their order.
	KeyIDs []string
	// NotAfter is the latest end of the certificates, and SignerEnd that of the
	// first, which is the authority that signs now.
	NotAfter, SignerEnd time.Time
}

// Key is one of the secrets of a control plane.
type Key struct {
	// Name is KeyServiceAccount or KeyEncryption.
	Name string

	// The rest is observed only. Condition is Incomplete where the private key
	// is sound and the public one is not.
	Condition Condition
	Problem   string
	// Fingerprint is for plans.
	Fingerprint string
	// IDs are what the secret's keys are known by, first the one that signs or
	// encrypts; see Report.
	IDs []string
	// Leftovers as in Found.
	Leftovers []string
}

// The names of the keys, which are their folders' names too.
const (
	KeyServiceAccount = "service-account"
	KeyEncryption     = "encryption"
)

// Mode is a file or folder with a wrong mode or owner.
type Mode struct {
	// Path is without symbolic links.
	Path string
	// Have is the mode found and Want the right one.
	Have, Want fs.FileMode
	// UID is the owner found; the right one is the user who runs nodeagent.
	UID uint32
	// Foreign tells that the owner is wrong.
	Foreign bool
}

func find[T any](list []T, match func(*T) bool) *T {
	for i := range list {
		if match(&list[i]) {
			return &list[i]
		}
	}
	return nil
}

func (s *State) authority(name string) *Authority {
	return find(s.Authorities, func(a *Authority) bool { return a.Name == name })
}

func (s *State) bundle(ca string) *Bundle {
	return find(s.Trust, func(b *Bundle) bool { return b.CA == ca })
}

func (s *State) key(name string) *Key {
	return find(s.Keys, func(k *Key) bool { return k.Name == name })
}

// Pair is what was found of a certificate; Missing where nothing was.
func (s *State) Pair(name string) Found {
	if c := s.certificate(name); c != nil {
		return c.Found
	}
	return Found{}
}

func (s *State) certificate(name string) *Certificate {
	return find(s.Certificates, func(c *Certificate) bool { return c.Name == name })
}
