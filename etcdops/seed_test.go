package etcdops

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// What seed makes is what etcd's own restore makes of the same snapshot: every key
// of every bucket, every entry of the log, and the log's snapshot.
func TestSeed(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 40, 2<<10)
	put(t, h, "/registry/pods/default/a", "/registry/services/specs/default/s")
	opts := h.saveOptions()
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	file := m.Path(opts.Dir)
	one := []Member{{Name: "m1", PeerURL: "https://192.0.2.1:2380"}}
	three := append(one, Member{Name: "m2", PeerURL: "https://192.0.2.2:2380"}, Member{Name: "m3", PeerURL: "https://[2001:db8::3]:2380"})
	for _, members := range [][]Member{one, three} {
		for _, bump := range []uint64{0, DefaultRevisionBump} {
			host := members[len(members)-1]
			theirs, ours := filepath.Join(t.TempDir(), "theirs"), filepath.Join(t.TempDir(), "ours")
			if err := snapshot.NewV3(quiet()).Restore(snapshot.RestoreConfig{
				SnapshotPath: file, Name: host.Name, OutputDataDir: theirs, PeerURLs: []string{host.PeerURL},
				InitialCluster: initialCluster(members), InitialClusterToken: "token", RevisionBump: bump, MarkCompacted: bump > 0,
			}); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			database := filepath.Join(ours, "member", "snap", "db")
			if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(database, content[:len(content)-trailerSize], 0o600); err != nil {
				t.Fatal(err)
			}
			if err := (seed{Dir: ours, Host: host.Name, Members: members, Token: "token", Bump: bump, Latest: m.Revision}).plant(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dataOf(t, theirs), dataOf(t, ours)); diff != "" {
				t.Errorf("%d members, bump %d (-etcdutl +seed):\n%s", len(members), bump, diff)
			}
		}
	}
}

// oldStore is the old store's tree with the members, without the order in which
// etcd has put them into it, which is a map's.
func oldStore(t *testing.T, store []byte) string {
	t.Helper()
	var content struct{ Root any }
	if err := json.Unmarshal(index.ReplaceAll(store, []byte(`Index":0`)), &content); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var index = regexp.MustCompile(`Index":[0-9]+`)

// dataOf is all that is in a data folder, in words.
func dataOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	data := map[string]string{}
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o400, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("%s: %v", dir, err)
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			data["bucket "+string(name)] = ""
			return b.ForEach(func(k, v []byte) error {
				data[fmt.Sprintf("%s %s", name, hex.EncodeToString(k))] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	described, err := snap.New(quiet(), filepath.Join(dir, "member", "snap")).Load()
	if err != nil {
		t.Fatal(err)
	}
	data["snapshot"] = fmt.Sprint(described.Metadata, oldStore(t, described.Data))
	w, err := wal.OpenForRead(quiet(), filepath.Join(dir, "member", "wal"), &walpb.Snapshot{Index: described.Metadata.Index, Term: described.Metadata.Term})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	metadata, state, entries, err := w.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	data["log"] = fmt.Sprintf("%x %v", metadata, state)
	for i, e := range entries {
		data[fmt.Sprint("entry ", i)] = e.String()
	}
	var files bytes.Buffer
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintln(&files, name, info.Mode())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	data["files"] = files.String()
	return data
}

// What was unsealed becomes the data, and is copied only onto another disk.
func TestPlace(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 8, 8<<10)
	form := forms(t)[".db.zst.age"]
	opts := h.saveOptions()
	opts.Sealing = form.Sealing
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	memory, err := os.MkdirTemp("/dev/shm", "nodeagent-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	for name, scratch := range map[string]string{"the same disk": filepath.Dir(h.Root.EtcdData()), "another disk": memory} {
		t.Run(name, func(t *testing.T) {
			restore := h.restoreOptions(m.Path(opts.Dir))
			restore.Identities, restore.Scratch = form.Identities, scratch
			plan, err := PlanRestore(t.Context(), restore)
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			unsealed, err := plan.source.Stat()
			if err != nil {
				t.Fatal(err)
			}
			for again := range 2 { // a plan whose source has become the data opens the snapshot again
				if err := stage(t.Context(), plan, func(int64, int64) {}); err != nil {
					t.Fatal(err)
				}
				staged, err := os.Stat(filepath.Join(plan.StagedDir, "member", "snap", "db"))
				if err != nil {
					t.Fatal(err)
				}
				if is, want := os.SameFile(unsealed, staged), scratch != memory && again == 0; is != want {
					t.Errorf("time %d: the data is what was unsealed: %t, want %t", again, is, want)
				}
			}
			if err := os.RemoveAll(plan.StagedDir); err != nil {
				t.Fatal(err)
			}
		})
	}
}
