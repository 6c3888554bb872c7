//go:build taplo

package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// TestTaplo holds the schemas against taplo itself (make test-taplo): with the
// settings that docs/spec.md has, it takes and refuses the same files as the library
// that the other tests check with.
func TestTaplo(t *testing.T) {
	s, dir := compile(t), t.TempDir()
	texts, err := Schemas()
	check(t, err)
	for name, text := range texts {
		put(t, filepath.Join(dir, "schema", name), string(text))
	}
	put(t, filepath.Join(dir, ".taplo.toml"), settingsOf(t))
	want := map[string]bool{}
	for i, file := range everyFile(t) {
		var tree map[string]any
		_, err := toml.Decode(file.text, &tree)
		if _, wrong := json.Marshal(tree); err != nil || wrong != nil {
			continue // no TOML, or a NaN, which the library cannot be asked of
		}
		name := filepath.Join(fmt.Sprint(i), file.name)
		put(t, filepath.Join(dir, name), file.text)
		want[name] = s.check(t, file.name, file.text) != nil
	}
	refused := lint(t, dir)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if refused[name] != want[name] {
			text, _ := os.ReadFile(filepath.Join(dir, name))
			t.Errorf("taplo refuses: %t, the schema: %t\n%s", refused[name], want[name], text)
		}
	}
	t.Logf("%d files, of which taplo refuses %d", len(want), len(refused))
	if len(refused) < len(mistakes) {
		t.Error("too few to show anything")
	}
}

type namedText struct{ name, text string }

// everyFile are the mistakes, the fleets that the loader is tested with and the
// shipped ones, these also with each value changed.
func everyFile(t *testing.T) []namedText {
	var all []namedText
	for _, m := range mistakes {
		all = append(all, namedText{m.file, m.text})
	}
	for _, fleets := range []map[string]map[string]string{golden(t), shipped(t)} {
		for _, files := range fleets {
			for name, text := range files {
				all = append(all, namedText{name, text})
			}
		}
	}
	for name, text := range shipped(t)["mercury"] {
		var tree map[string]any
		_, err := toml.Decode(text, &tree)
		check(t, err)
		change(tree, func(string) {
			var changed bytes.Buffer
			if toml.NewEncoder(&changed).Encode(tree) == nil {
				all = append(all, namedText{name, changed.String()})
			}
		})
	}
	return all
}

// settingsOf are taplo's, as docs/spec.md has them, for files in folders of folders.
func settingsOf(t *testing.T) string {
	_, text, _ := strings.Cut(specSource, "```toml\n[[rule]]")
	text, _, ok := strings.Cut("[[rule]]"+text, "```")
	if !ok || !strings.Contains(text, `["*.toml"]`) {
		t.Fatalf("docs/spec.md has no settings for taplo: %q", text)
	}
	return strings.NewReplacer(`"*.toml"`, `"*/*.toml"`, `"cluster.toml"`, `"*/cluster.toml"`).Replace(text)
}

// lint runs taplo in a folder and returns the files that it refuses.
func lint(t *testing.T, dir string) map[string]bool {
	cmd := exec.Command(os.Getenv("NODEAGENT_TAPLO"), "lint", "--colors", "never")
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // it fails where it refuses any
	refused := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if _, path, ok := strings.Cut(line, ` path="`+dir+"/"); ok && strings.Contains(line, "invalid file") {
			refused[strings.TrimSuffix(strings.TrimSpace(path), `"`)] = true
		}
	}
	if len(refused) == 0 {
		t.Fatalf("taplo refuses nothing:\n%s", out)
	}
	return refused
}

func put(t *testing.T, path, text string) {
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(text), 0o644))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
