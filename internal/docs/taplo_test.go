package docs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/BurntSushi/toml"
)

// The repository's own settings for editors name schemas and files that are
// there, each fleet's files by one rule.
func TestTaploSettings(t *testing.T) {
	var settings struct {
		Rule []struct {
			Include, Exclude []string
			Schema           struct{ Path string }
		}
	}
	if _, err := toml.DecodeFile("../../.taplo.toml", &settings); err != nil {
		t.Fatal(err)
	}
	rules := map[string]string{}
	for _, rule := range settings.Rule {
		if _, err := os.Stat(filepath.Join("../..", rule.Schema.Path)); err != nil {
			t.Error(err)
		}
		for _, path := range matches(t, rule.Include) {
			rules[path] = rule.Schema.Path
		}
		for _, path := range matches(t, rule.Exclude) {
			delete(rules, path)
		}
	}
	for _, path := range matches(t, []string{"hosts/fleets/*/*.toml"}) {
		want := "docs/schema/host.schema.json"
		if filepath.Base(path) == "cluster.toml" {
			want = "docs/schema/cluster.schema.json"
		}
		if rules[path] != want {
			t.Errorf("%s has the schema %q, want %s", path, rules[path], want)
		}
	}
}

func matches(t *testing.T, globs []string) []string {
	t.Helper()
	var all []string
	for _, glob := range globs {
		paths, err := filepath.Glob(filepath.Join("../..", glob))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s is no file: %v", glob, err)
		}
		all = append(all, paths...)
	}
	return all
}
