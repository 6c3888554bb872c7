package units

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/layout"
)

func TestDropIns(t *testing.T) {
	root := t.TempDir()
	var want []string
	for _, file := range []string{"etc/systemd/system/nodeagent-etcd.service.d/override.conf", "run/systemd/system.control/nodeagent-etcd.service.d/50-CPUQuota.conf"} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, path + ".bak"} {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, path)
	}
	f := folders{layout.Root(root)}
	if diff := cmp.Diff(want, f.dropIns("nodeagent-etcd.service")); diff != "" {
		t.Error(diff)
	}
	if others := f.dropIns("nodeagent-kubelet.service"); others != nil {
		t.Errorf("another unit has %v", others)
	}
}
