package kube

import (
	"path/filepath"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
)

// TestGolden compares every rendered byte with testdata. Run with -update after
// a change that is meant, and read the difference.
func TestGolden(t *testing.T) {
	// "settings" is a fleet that puts its own settings over nodeagent's.
	for name, spec := range map[string]*hosts.Spec{
		"settings": single(),
		"mercury":  shipped(t, "mercury", "mercury"),
		"soarin":   shipped(t, "k8s-235", "soarin"),
	} {
		t.Run(name, func(t *testing.T) {
			state := Render(spec, "", Facts{})
			got := map[string]string{}
			for _, file := range state.Files {
				got[filepath.Join("files", file.Path)] = file.Mode.String() + "\n" + string(file.Content)
			}
			for _, unit := range state.Units {
				got[filepath.Join("units", unit.Name)] = unit.Content
			}
			golden.CheckTree(t, filepath.Join("testdata", name), got)
		})
	}
}

// shipped loads a host of a fleet that comes with nodeagent.
func shipped(t *testing.T, fleet, host string) *hosts.Spec {
	t.Helper()
	loaded, err := hosts.Load(filepath.Join("..", "..", "hosts", "fleets", fleet))
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range loaded.Hosts {
		if spec.Name == host {
			return spec
		}
	}
	t.Fatalf("fleet %s has no host %s", fleet, host)
	return nil
}
