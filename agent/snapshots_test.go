package agent

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// A snapshot from a time when the clock was ahead must not make every moment
// one at which a snapshot is due: they would follow one another without a
// pause, and push the real ones out of retention.
func TestSnapshotDatedInTheFutureIsNotTheNewest(t *testing.T) {
	dir := t.TempDir()
	spec := &hosts.Spec{Name: "h", Cluster: "c", Snapshots: hosts.Snapshots{Destination: dir}}
	now := time.Date(2026, 5, 1, 9, 0, 0, 0, time.UTC)
	for name, taken := range map[string]time.Time{"old": now.Add(-9 * time.Hour), "real": now.Add(-3 * time.Hour), "wrong": now.AddDate(10, 0, 0)} {
		m := etcdops.Manifest{Format: etcdops.ManifestFormat, Cluster: "c", Host: "h", Taken: taken, Size: 1, Stored: etcdops.Stored{Size: 1}}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for file, content := range map[string][]byte{name + ".db": {0}, name + ".json": text} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	newest := newestSnapshot(slog.New(slog.DiscardHandler), spec, now)
	if want := now.Add(-3 * time.Hour); !newest.Equal(want) {
		t.Fatalf("the newest is of %v, want %v", newest, want)
	}
	next := nextSnapshot(mustParse(t, "*-*-* 00/6:00:00"), newest, now)
	if want := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC); !next.Equal(want) {
		t.Errorf("the next is due at %v, want %v", next, want)
	}
}
