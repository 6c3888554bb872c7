package kube

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
			dir := filepath.Join("testdata", name)
			if *update {
				writeGolden(t, dir, got)
			}
			if diff := cmp.Diff(readGolden(t, dir), got); diff != "" {
				t.Errorf("rendered files differ from %s (-want +got), see -update:\n%s", dir, diff)
			}
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

func writeGolden(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readGolden(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
