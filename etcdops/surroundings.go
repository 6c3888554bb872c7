package etcdops

import (
	"maps"
	"slices"
	"strings"
)

// Surroundings are what a host knows of itself and of its fleet that a whole
// recovery needs beside etcd's data: what to look for in backups, and where to
// find it. They hold no secret.
type Surroundings struct {
	// FleetDigest is "sha256:<hex>" of the fleet's folder, as hosts.Spec.Digest.
	FleetDigest string `json:"fleetDigest,omitempty"`
	// EncryptionKeys are the keys with which the host's kube-apiserver encrypts
	// and reads Secrets at rest, first the one that writes; none on a host without
	// a kube-apiserver. [Manifest.NeededKeys] says which of them the data needs.
	EncryptionKeys []EncryptionKey `json:"encryptionKeys,omitempty"`
	// ServiceAccountKeys are the ids of the public keys that check service account
	// tokens, that of the key that signs first: without it every token ends.
	ServiceAccountKeys []string `json:"serviceAccountKeys,omitempty"`
	// CAs are the ids of the public keys of the certificates in the host's trust
	// bundles, by CA ("k8s-server"), the one that signs first. Clients that were
	// given a CA's certificate go on after a restore only if it is the same one.
	CAs map[string][]string `json:"cas,omitempty"`
	// Vault is where the fleet keeps its secrets, nil for the local issuer.
	Vault *VaultReference `json:"vault,omitempty"`
	// Certificates are the host's certificates and trust bundles in PEM, by their
	// name and by "trust/" and the name of the CA, where the fleet asks for them
	// (snapshots.certificates). No private key is among them.
	Certificates map[string]string `json:"certificates,omitempty"`
}

// encryptsWith is the fingerprint of the key with which Secrets are written.
func (s Surroundings) encryptsWith() string {
	if len(s.EncryptionKeys) == 0 {
		return ""
	}
	return s.EncryptionKeys[0].ID
}

// EncryptionKey is a key of kube-apiserver's EncryptionConfiguration.
type EncryptionKey struct {
	// Provider and Name are what values that it has encrypted begin with:
	// "k8s:enc:<provider>:v1:<name>:". ID is the key's fingerprint.
	Provider string `json:"provider"`
	Name     string `json:"name"`
	ID       string `json:"id"`
}

// VaultReference is a fleet's Vault as hosts.Vault has it.
type VaultReference struct {
	Address string `json:"address"`
	Mount   string `json:"mount"`
}

// ManifestMember is a member of the cluster that was saved.
type ManifestMember struct {
	Name       string   `json:"name"` // empty for one that had not started
	ID         string   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs,omitempty"`
	Learner    bool     `json:"learner,omitempty"`
}

// Comparison is what was known of the other members' data when one was saved.
type Comparison struct {
	// Revision at which the members' keys were hashed, 0 where they were not.
	Revision int64 `json:"revision,omitempty"`
	// Hash is that of the saved member and of those in Agree; Differ have another.
	Hash   uint32   `json:"hash,omitempty"`
	Agree  []string `json:"agree,omitempty"`
	Differ []string `json:"differ,omitempty"`
	// Unreachable says of each member that could not be asked why not.
	Unreachable map[string]string `json:"unreachable,omitempty"`
	// Skipped says why hashes were not compared.
	Skipped string `json:"skipped,omitempty"`
}

// NeededKeys are the fingerprints of the encryption keys without which values
// in the snapshot cannot be read, sorted, and those keys of which only the
// provider and the name are known ("secretbox key1"). Manifests of format 1 and
// 2 name only the key that was in use.
func (m Manifest) NeededKeys() (ids, unknown []string) {
	if m.Format < 3 {
		if m.EncryptionKey != "" {
			ids = []string{m.EncryptionKey}
		}
		return ids, nil
	}
	for _, header := range m.EncryptedWith {
		provider, rest, _ := strings.Cut(header, ":")
		_, name, _ := strings.Cut(rest, ":") // v1, v2
		i := slices.IndexFunc(m.EncryptionKeys, func(k EncryptionKey) bool { return k.Provider == provider && k.Name == name })
		if i < 0 {
			unknown = append(unknown, provider+" "+name)
		} else {
			ids = append(ids, m.EncryptionKeys[i].ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), unknown
}

// Lost says which of the surroundings the host that restores does not have any
// more: what a restore should warn of. Encryption keys are not among them; see
// NeededKeys.
func (s Surroundings) Lost(now Surroundings) []string {
	var lost []string
	for _, ca := range slices.Sorted(maps.Keys(s.CAs)) {
		then, have := s.CAs[ca], now.CAs[ca]
		if len(then) > 0 && len(have) > 0 && !slices.Contains(have, then[0]) {
			lost = append(lost, "the CA "+ca+" that signed when the snapshot was taken (key "+shortID(then[0])+") is not trusted here: clients that were given its certificate, and webhooks in the data that name it, need the new one")
		}
	}
	if then := s.ServiceAccountKeys; len(then) > 0 && len(now.ServiceAccountKeys) > 0 && !slices.Contains(now.ServiceAccountKeys, then[0]) {
		lost = append(lost, "the key that signed service account tokens (key "+shortID(then[0])+") is not known here: tokens of running pods and of legacy Secrets are refused until they are made again")
	}
	if s.Vault != nil && now.Vault != nil && *s.Vault != *now.Vault {
		lost = append(lost, "the fleet's Vault was "+s.Vault.Address+", mount "+s.Vault.Mount+"; it is "+now.Vault.Address+", mount "+now.Vault.Mount)
	}
	return lost
}

// shortID is enough of a digest to tell it from others.
func shortID(id string) string {
	return id[:min(len(id), len("sha256:")+12)]
}
