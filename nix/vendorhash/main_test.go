package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/nix/nar"
)

// module writes a module that needs another one, which lies beside it.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"m/go.mod":         "module example.org/m\n\ngo 1.26.0\n\nrequire example.org/d v0.0.0\n\nreplace example.org/d => ../d\n",
		"m/m.go":           "package m\n\nimport _ \"example.org/d\"\n",
		"d/go.mod":         "module example.org/d\n\ngo 1.26.0\n",
		"d/d.go":           "package d\n",
		"m/nix/keep":       "",
		"d/other/other.go": "package other\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "m")
}

// TestStale: a hash that is missing or of other modules fails with the remedy.
func TestStale(t *testing.T) {
	m := module(t)
	remedy := func() {
		t.Helper()
		if err := run(m, false); err == nil || !strings.Contains(err.Error(), "run: make vendor-hash") {
			t.Errorf("%v", err)
		}
	}
	remedy()
	if err := run(m, true); err != nil {
		t.Fatal(err)
	}
	if err := run(m, false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m, "../d/d.go"), []byte("package d\n\nconst D = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	remedy()
	if err := os.WriteFile(filepath.Join(m, "go.mod"), []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(m, false); err == nil || !strings.Contains(err.Error(), "go mod vendor") {
		t.Errorf("%v", err)
	}
}

// TestWhatIsVendored: the hash is that of the folder as it should be, written by
// hand, and nothing is left of it.
func TestWhatIsVendored(t *testing.T) {
	want := filepath.Join(t.TempDir(), "vendor")
	for name, text := range map[string]string{
		"example.org/d/d.go": "package d\n",
		"modules.txt":        "# example.org/d v0.0.0 => ../d\n## explicit; go 1.26.0\nexample.org/d\n# example.org/d => ../d\n",
	} {
		file := filepath.Join(want, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hash, err := nar.Hash(want)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	got, err := hashOf(module(t))
	if err != nil {
		t.Fatal(err)
	}
	if got != hash {
		t.Errorf("%s, want %s", got, hash)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
