package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// markPath is the file inside restored data that says where it comes from, and by
// which a restore that was interrupted tells the new folder from the old one.
// etcd looks at wal and snap beside it only.
func markPath(dataDir string) string {
	return filepath.Join(dataDir, "member", "nodeagent-restore.json")
}

// undoMarkPath is the same for data that an undo brings back, which may bear the
// mark of the restore that it comes from.
func undoMarkPath(dataDir string) string {
	return filepath.Join(dataDir, "member", "nodeagent-undo.json")
}

type mark struct {
	ID       string `json:"id"`
	Snapshot string `json:"snapshot,omitempty"`
	SHA256   string `json:"sha256,omitempty"`
	Token    string `json:"token,omitempty"`
	// Cluster is the id of the data's cluster, Replaced those of the clusters
	// whose place it has taken, the newest last.
	Cluster  string   `json:"cluster,omitempty"`
	Replaced []string `json:"replaced,omitempty"`
}

func (p RestorePlan) markPath(dataDir string) string {
	if p.Undo {
		return undoMarkPath(dataDir)
	}
	return markPath(dataDir)
}

func writeMark(dataDir string, p RestorePlan) error {
	m := mark{ID: p.ID, Snapshot: p.Snapshot.Path, SHA256: p.Snapshot.SHA256, Token: p.Token, Cluster: p.ClusterID, Replaced: p.Replaces}
	if p.Undo {
		m = mark{ID: p.ID}
	}
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(p.markPath(dataDir), append(content, '\n'), 0o600)
}

// marked tells whether the folder holds the data that the restore brings.
func (p RestorePlan) marked(dataDir string) (bool, error) {
	m, err := readMarkFile(p.markPath(dataDir))
	return err == nil && m.ID != "" && m.ID == p.ID, err
}

// readMark returns the zero mark of a folder that no restore has made.
func readMark(dataDir string) (mark, error) { return readMarkFile(markPath(dataDir)) }

func readMarkFile(path string) (mark, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, err
	}
	var m mark
	if err := json.Unmarshal(content, &m); err != nil {
		return mark{}, fmt.Errorf("read %q: %w", path, err)
	}
	return m, nil
}

// maxReplaced bounds the list of clusters that a mark remembers.
const maxReplaced = 32

// replaces lists the clusters whose place the restored one takes: that of the
// data which is live here, those which that one had replaced, and the one that
// the snapshot was taken from. What cannot be read of data that somebody gives up
// is left out.
func (p *RestorePlan) replaces() []string {
	var ids []string
	if old, err := readMark(p.DataDir); err == nil {
		ids = append(ids, old.Replaced...)
	}
	if m := p.Snapshot.Manifest; m != nil && !p.Foreign {
		ids = append(ids, m.ClusterID)
	}
	if id, _, err := dataCluster(p.DataDir); err == nil {
		ids = append(ids, id)
	}
	var distinct []string
	for _, id := range ids {
		if id != "" && id != p.ClusterID && !slices.Contains(distinct, id) {
			distinct = append(distinct, id)
		}
	}
	return distinct[max(0, len(distinct)-maxReplaced):]
}
