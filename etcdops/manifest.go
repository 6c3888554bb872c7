package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// ManifestFormat is the format number of manifests written today. Readers
// refuse a higher one.
const ManifestFormat = 1

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
	// Keys is how many keys are alive in it.
	Keys int64 `json:"keys"`
	// EncryptionKey is the fingerprint of the key with which kube-apiserver
	// encrypts Secrets at rest, empty where the host has none.
	EncryptionKey string `json:"encryptionKey,omitempty"`
	// Alarms that were raised in the cluster, such as NOSPACE. They survive in
	// the snapshot.
	Alarms []string `json:"alarms,omitempty"`

	// Size of the file in bytes, the trailer included. SHA256 is of the whole
	// file, as sha256sum prints it; Trailer is the SHA-256 of the database, the
	// file's last 32 bytes.
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Trailer string `json:"trailer"`

	// NodeagentVersion is the version that took the snapshot.
	NodeagentVersion string `json:"nodeagentVersion"`
}

const (
	snapshotSuffix = ".db"
	manifestSuffix = ".json"
	timeInName     = "20060102T150405Z"
)

// snapshotName is the file name of a snapshot; names of one host sort by time.
func snapshotName(cluster, host string, taken time.Time) string {
	return fmt.Sprintf("%s-%s-%s%s", cluster, host, taken.UTC().Format(timeInName), snapshotSuffix)
}

// manifestPath is where the manifest of a snapshot lies.
func manifestPath(snapshot string) string {
	return strings.TrimSuffix(snapshot, snapshotSuffix) + manifestSuffix
}

// ErrNoManifest is the error of a snapshot that has no manifest beside it.
var ErrNoManifest = errors.New("no manifest beside it")

// readManifest reads the manifest of the snapshot. The error wraps
// ErrNoManifest where there is none.
func readManifest(snapshot string) (Manifest, error) {
	// A snapshot of another name has no place for a manifest of ours.
	if filepath.Ext(snapshot) != snapshotSuffix {
		return Manifest{}, ErrNoManifest
	}
	path := manifestPath(snapshot)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, ErrNoManifest
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	var m Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest %q: %w", path, err)
	}
	if m.Format < 1 || m.Format > ManifestFormat {
		return Manifest{}, fmt.Errorf("read manifest %q: format %d is not known to this nodeagent, which reads up to %d", path, m.Format, ManifestFormat)
	}
	return m, nil
}

func writeManifest(snapshot string, m Manifest) error {
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return atomicfile.Write(manifestPath(snapshot), append(content, '\n'), 0o600)
}
