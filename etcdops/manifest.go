package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// ManifestFormat is the format number of manifests written today. Readers
// refuse a higher one.
const ManifestFormat = 3

// Manifest describes one snapshot; it lies beside it as JSON.
type Manifest struct {
	Format int `json:"format"`
	// Cluster and Host are the names from the fleet.
	Cluster string `json:"cluster"`
	Host    string `json:"host"`
	// Taken is when the stream began, UTC, whole seconds.
	Taken time.Time `json:"taken"`

	// ClusterID and MemberID are etcd's, hexadecimal as etcdctl prints them.
	ClusterID  string `json:"clusterID"`
	MemberID   string `json:"memberID"`
	MemberName string `json:"memberName"`
	Endpoint   string `json:"endpoint"`
	// EtcdVersion is the version of the member's binary, StorageVersion that of
	// the format of its data, empty before etcd 3.6.
	EtcdVersion    string `json:"etcdVersion"`
	StorageVersion string `json:"storageVersion"`

	// Revision is that of the last change in the snapshot, as etcdutl prints
	// it; RaftTerm and RaftIndex are the last entry applied to it.
	Revision  int64  `json:"revision"`
	RaftTerm  uint64 `json:"raftTerm"`
	RaftIndex uint64 `json:"raftIndex"`
	// Hash is a CRC-32 over all that is in the database, as `etcdutl snapshot
	// status` prints it; 0 before format 3.
	Hash uint32 `json:"hash,omitempty"`
	// Keys is how many keys are alive in it; Objects counts those of Kubernetes
	// by resource, and Prefixes all by how they begin, as [Contents] has them.
	Keys     int64            `json:"keys"`
	Objects  map[string]int64 `json:"objects,omitempty"`
	Prefixes map[string]int64 `json:"prefixes,omitempty"`
	// EncryptionKey is the fingerprint of the key with which kube-apiserver
	// encrypts Secrets at rest, empty where the host has none. EncryptedWith are
	// the keys with which values in the snapshot are encrypted, as [Contents].
	EncryptionKey string   `json:"encryptionKey,omitempty"`
	EncryptedWith []string `json:"encryptedWith,omitempty"`
	// Alarms that were raised in the cluster, such as NOSPACE. They survive in
	// the snapshot.
	Alarms []string `json:"alarms,omitempty"`
	// Members are those of the cluster, sorted by name.
	Members []ManifestMember `json:"members,omitempty"`
	// WithoutQuorum tells that the cluster had none: what a majority had agreed on
	// may be missing in the snapshot.
	WithoutQuorum bool `json:"withoutQuorum,omitempty"`
	// Compared is what was known of the other members' data.
	Compared *Comparison `json:"compared,omitempty"`

	Surroundings

	// Size in bytes of what etcd sent, the trailer included. SHA256 is of all of
	// it; Trailer is the SHA-256 of the database, its last 32 bytes.
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Trailer string `json:"trailer"`
	// Stored is the file in which it lies.
	Stored Stored `json:"stored"`

	// OpenedBy are those who can open an encrypted one, each alone: age's public
	// keys, and keys in Vault as "vault:<path>@<version>".
	OpenedBy []string `json:"openedBy,omitempty"`

	// NodeagentVersion is the version that took the snapshot.
	NodeagentVersion string `json:"nodeagentVersion"`

	// SignedBy is the public key with which the manifest can be checked, as
	// [Signer.PublicKey] has it, and Signature the signature in base64. Both are empty
	// where it is not signed. They stay the last two fields; see sign.go.
	SignedBy  string `json:"signedBy,omitempty"`
	Signature string `json:"signature,omitempty"`
}

const (
	snapshotSuffix = ".db"
	manifestSuffix = ".json"
	timeInName     = "20060102T150405Z"
)

// Stored is a snapshot's file as it lies there. Size in bytes and SHA256 are what
// ls and sha256sum print; for a plain one they are those of what etcd sent.
type Stored struct {
	Form
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// stem is the name that the snapshot and its manifest have in common; those of
// one host sort by time.
func (m Manifest) stem() string {
	return fmt.Sprintf("%s-%s-%s", m.Cluster, m.Host, m.Taken.UTC().Format(timeInName))
}

// Path is where the snapshot of the manifest lies in the folder that it was
// saved to.
func (m Manifest) Path(dir string) string {
	return filepath.Join(dir, m.stem()+m.Stored.suffix())
}

// manifestPath is where the manifest of a snapshot lies.
func manifestPath(snapshot string) string {
	stem, _ := splitName(snapshot)
	return stem + manifestSuffix
}

// ErrNoManifest is the error of a snapshot that has no manifest beside it.
var ErrNoManifest = errors.New("no manifest beside it")

// readManifest reads the manifest of the snapshot. The error wraps
// ErrNoManifest where there is none.
func readManifest(snapshot string) (Manifest, error) {
	// A snapshot of another name has no place for a manifest of ours.
	if _, ok := splitName(snapshot); !ok {
		return Manifest{}, ErrNoManifest
	}
	return readManifestFile(manifestPath(snapshot))
}

// readManifestFile reads the manifest that lies there.
func readManifestFile(path string) (Manifest, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, ErrNoManifest
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return ParseManifest(path, content)
}

// ParseManifest reads a manifest's content; the path is for errors. One whose
// signature does not match is refused.
func ParseManifest(path string, content []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest %q: %w", path, err)
	}
	if m.Format < 1 || m.Format > ManifestFormat {
		return Manifest{}, fmt.Errorf("read manifest %q: format %d is not known to this nodeagent, which reads up to %d", path, m.Format, ManifestFormat)
	}
	if m.Format == 1 { // every snapshot was plain
		m.Stored = Stored{Size: m.Size, SHA256: m.SHA256}
	}
	if err := m.checkSignature(content); err != nil {
		return Manifest{}, fmt.Errorf("read manifest %q: %w", path, err)
	}
	return m, nil
}

func writeManifest(snapshot string, m Manifest) error {
	content, err := m.encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(manifestPath(snapshot), content, 0o600)
}
