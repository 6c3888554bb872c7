package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// TestInvalidFleetAtStart starts the agent with files that have become invalid
// since it last ran, as after a reboot.
func TestInvalidFleetAtStart(t *testing.T) {
	dir, root := t.TempDir(), layout.Root(t.TempDir())
	if err := os.CopyFS(dir, os.DirFS("../hosts/fleets/mercury")); err != nil {
		t.Fatal(err)
	}
	start := func() *daemon {
		return &daemon{Settings: Settings{Root: root, Fleet: hosts.Source{Dir: dir}, Host: "mercury", Log: slog.New(slog.DiscardHandler)}}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "mercury.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	valid, err := os.ReadFile(filepath.Join(dir, "mercury.toml"))
	if err != nil {
		t.Fatal(err)
	}

	write("nonsense")
	if _, err := start().firstSpec(); err == nil || !strings.Contains(err.Error(), "mercury.toml") {
		t.Fatalf("a first start with an invalid fleet: %v, want its problems", err)
	}
	write(string(valid))
	before, err := start().firstSpec()
	if err != nil {
		t.Fatal(err)
	}
	// The fleet that is in force last is the one that is kept.
	write(string(valid) + "# a comment\n")
	latest, err := start().firstSpec()
	if err != nil || latest.Digest == before.Digest {
		t.Fatalf("the changed fleet: %v, %v", latest, err)
	}
	for _, what := range []string{"an invalid file", "a missing folder"} {
		write("nonsense")
		if what == "a missing folder" {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		d := start()
		spec, err := d.firstSpec()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if spec.Digest != latest.Digest || spec.Address != latest.Address {
			t.Errorf("%s: the spec %s is in force, want %s", what, spec.Digest, latest.Digest)
		}
		if !strings.Contains(d.invalid, spec.Digest) {
			t.Errorf("%s: the status says nothing of it: %q", what, d.invalid)
		}
	}
	if copies, err := os.ReadDir(filepath.Dir(keptFleet(root))); err != nil || len(copies) != 2 {
		t.Errorf("the folder of copies has %v (%v), want one copy and the link", copies, err)
	}
}

// TestWarningsAreLoggedOnce: the fleet is read again at every look.
func TestWarningsAreLoggedOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../hosts/fleets/mercury")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "mercury.toml")
	valid, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	d := &daemon{Settings: Settings{
		Root: layout.Root(t.TempDir()), Fleet: hosts.Source{Dir: dir}, Host: "mercury", Log: slog.New(slog.NewTextHandler(&log, nil)),
	}}
	for _, step := range []struct {
		name, more string
		reads      int
		want       int // warnings logged by then
	}{
		{"without a warning", "", 1, 0},
		{"a warning, read over and over", "\n[pki]\nlifetime = \"2m\"\nrenew_before = \"40s\"\n", 3, 1},
		{"it is gone", "", 2, 1},
		{"it is there again", "\n[pki]\nlifetime = \"2m\"\nrenew_before = \"40s\"\n", 2, 2},
	} {
		if err := os.WriteFile(file, append([]byte(step.more), valid...), 0o600); err != nil {
			t.Fatal(err)
		}
		for range step.reads {
			if _, err := d.load(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		if got := strings.Count(log.String(), "renewed 40s before their end"); got != step.want {
			t.Errorf("%s: logged %d times, want %d:\n%s", step.name, got, step.want, log.String())
		}
	}
}
