package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"sync"
	"testing"

	"github.com/nodeagent/nodeagent/pki"
)

// TestSnapshotKey: etcd's hosts share one key, which is made once, whoever is
// first; a new version of an administrator is in use at once, the old one can
// still be read, and nobody else can read either.
func TestSnapshotKey(t *testing.T) {
	fleet := trio("\n[snapshots]\nvault_key = \"snapshots/etcd\"\n")
	fleet["n4.toml"] = strings.NewReplacer("192.0.2.2", "192.0.2.4").Replace(fleet["n2.toml"])
	fleet["n5.toml"] = strings.NewReplacer("192.0.2.2", "192.0.2.5").Replace(fleet["n2.toml"])
	const name, path = "snapshots/etcd", "nodeagent/small/secrets/snapshots/etcd"
	eachVault(t, fleet, func(t *testing.T, w *world) {
		var keys [2][]byte
		nodes := []*node{w.enrolled("n2"), w.enrolled("n4")}
		var wait sync.WaitGroup
		for i, n := range nodes {
			wait.Go(func() {
				key, version, at, err := n.SnapshotKey(t.Context(), name)
				if err != nil || version != 1 || at != path || len(key) != 32 {
					t.Errorf("%s: %d bytes, version %d at %s, %v", n.name, len(key), version, at, err)
				}
				keys[i] = key
			})
		}
		wait.Wait()
		first := keys[0]
		if !bytes.Equal(first, keys[1]) || bytes.Equal(first, make([]byte, 32)) {
			t.Error("two hosts have two keys, or none")
		}
		second := make([]byte, 32)
		if _, err := rand.Read(second); err != nil {
			t.Fatal(err)
		}
		put := func(value []byte, cas int) error {
			return write(t.Context(), w.client, w.place.Secret(name), map[string]any{
				"data": map[string]any{"value": base64.StdEncoding.EncodeToString(value)}, "options": map[string]any{"cas": cas},
			})
		}
		if err := put(second, 1); err != nil {
			t.Fatal(err)
		}
		if key, version, _, err := nodes[0].SnapshotKey(t.Context(), name); err != nil || version != 2 || !bytes.Equal(key, second) {
			t.Errorf("after a new version: version %d, %v", version, err)
		}
		for version, want := range map[int][]byte{1: first, 2: second} {
			if key, err := nodes[1].SnapshotKeyAt(t.Context(), path, version); err != nil || !bytes.Equal(key, want) {
				t.Errorf("version %d: %v", version, err)
			}
		}
		if _, err := nodes[1].SnapshotKeyAt(t.Context(), path, 3); pki.CauseOf(err) != pki.CauseMissing || !strings.Contains(err.Error(), "no version 3") {
			t.Errorf("a version that is not there: %v", err)
		}
		if _, err := nodes[1].SnapshotKeyAt(t.Context(), "nodeagent/other/secrets/snapshots", 1); err == nil || !strings.Contains(err.Error(), "use the fleet of the cluster") {
			t.Errorf("another cluster's: %v", err)
		}
		for _, other := range []string{"encryption", "snapshots/../encryption", "snapshots//etcd", "snapshotsx", "../nodeagent/sign/n2"} {
			if _, err := nodes[1].SnapshotKeyAt(t.Context(), "nodeagent/small/secrets/"+other, 1); err == nil || !strings.Contains(err.Error(), "no key of snapshots") {
				t.Errorf("%s: %v", other, err)
			}
		}

		worker := w.enrolled("n3")
		if _, _, _, err := worker.SnapshotKey(t.Context(), name); err == nil || !strings.Contains(err.Error(), "snapshots/etcd") {
			t.Errorf("a worker: %v", err)
		}
		// A host cannot replace the key.
		err := nodes[0].do(t.Context(), nodes[0].asked("overwrite", ""), func(ctx context.Context, c *conn) error {
			_, err := c.write(ctx, w.place.Secret(name), map[string]any{
				"data": map[string]any{"value": "AAAA"}, "options": map[string]any{"cas": 2},
			})
			return err
		})
		if status(err) != 403 {
			t.Errorf("a host writes over the key: %v", err)
		}

		if err := put([]byte("short"), 2); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := nodes[0].SnapshotKey(t.Context(), name); err == nil || !strings.Contains(err.Error(), "no key of 32 bytes") {
			t.Errorf("what is no key: %v", err)
		}
		if _, err := w.client.Logical().DeleteWithContext(t.Context(), w.place.Secret(name)); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := nodes[0].SnapshotKey(t.Context(), name); err == nil || !strings.Contains(err.Error(), "never made anew") {
			t.Errorf("a deleted key: %v", err)
		}
		if key, err := nodes[0].SnapshotKeyAt(t.Context(), path, 1); err != nil || !bytes.Equal(key, first) {
			t.Errorf("the first version, after the last one was deleted: %v", err)
		}
		w.server.Stop()
		if _, _, _, err := nodes[0].SnapshotKey(t.Context(), name); pki.CauseOf(err) != pki.CauseUnreachable {
			t.Errorf("with Vault down: %v", err)
		}
	})
}
