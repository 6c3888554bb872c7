package vault

import (
	"strings"
	"testing"
)

// TestSnapshotEntry lets hosts with etcd read the access key that their copies
// name, and nobody else, nor write it.
func TestSnapshotEntry(t *testing.T) {
	files := trio("")
	files["cluster.toml"] += "\n[snapshots.copies.offsite]\nendpoint = \"https://s3.example.org\"\nbucket = \"backup\"\nvault_entry = \"offsite\"\n"
	eachVault(t, files, func(t *testing.T, w *world) {
		w.bootstrap()
		holder, other := "", ""
		for _, spec := range w.fleet.Hosts {
			if spec.Has("etcd") {
				holder = spec.Name
			} else {
				other = spec.Name
			}
		}
		n := w.enrolled(holder)
		_, err := n.SnapshotEntry(t.Context(), "offsite")
		if err == nil || !strings.Contains(err.Error(), "vault kv put -cas=0 -mount="+w.place.Secrets()+" snapshots/offsite") {
			t.Errorf("before it is there: %v, want how to write it", err)
		}
		data := map[string]any{"data": map[string]any{"access_key": "AK", "secret_key": "SK", "number": 7}, "options": map[string]any{"cas": 0}}
		if _, err := w.client.Logical().Write(w.place.Secret("snapshots/offsite"), data); err != nil {
			t.Fatal(err)
		}
		fields, err := n.SnapshotEntry(t.Context(), "offsite")
		if err != nil || len(fields) != 2 || fields["access_key"] != "AK" || fields["secret_key"] != "SK" {
			t.Errorf("it is %v, %v", fields, err)
		}
		if _, err := n.SnapshotEntry(t.Context(), "elsewhere"); err == nil || !strings.Contains(err.Error(), "bootstrap") {
			t.Errorf("another entry: %v, want a refusal that names the bootstrap", err)
		}
		if _, err := w.enrolled(other).SnapshotEntry(t.Context(), "offsite"); err == nil {
			t.Error("a host without etcd reads it")
		}
	})
}
