package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCurrent fails when the keys of a fleet are no longer those of nix/options.json.
func TestCurrent(t *testing.T) {
	if err := run("../options.json", false); err != nil {
		t.Error(err)
	}
}

// TestStale: what is not current fails with what to do, and writing mends it.
func TestStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "options.json")
	for _, content := range []string{"", "{}"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(path, false); err == nil || !strings.Contains(err.Error(), "make nix-options") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := run(path, true); err != nil {
		t.Fatal(err)
	}
	if err := run(path, false); err != nil {
		t.Error(err)
	}
}
