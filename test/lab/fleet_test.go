package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// TestMercuryFleet loads the lab's variant of the shipped fleet as nodeagent
// does, and looks for some of what it has different.
func TestMercuryFleet(t *testing.T) {
	files, err := MercuryFleet(filepath.Join("..", "..", "hosts", "fleets", "mercury"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fleet, err := hosts.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := fleet.Host("mercury")
	if err != nil {
		t.Fatal(err)
	}
	if spec.Kubernetes.Binaries != programsPath {
		t.Errorf("the component binaries are looked for in %s, the lab has them in %s", spec.Kubernetes.Binaries, programsPath)
	}
	if value := spec.Kubernetes.Config["kubelet"]["failCgroupV1"]; value != false {
		t.Errorf("the kubelet's failCgroupV1 is %v, want false", value)
	}
	for _, warning := range fleet.Warnings {
		t.Errorf("a warning: %s", warning)
	}
}
