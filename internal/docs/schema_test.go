package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/BurntSushi/toml"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nodeagent/nodeagent/hosts"
)

// schemas are the two as an editor has them, by the file that they are for.
type schemas map[string]*jsonschema.Schema

func compile(t *testing.T) schemas {
	t.Helper()
	texts, err := Schemas()
	if err != nil {
		t.Fatal(err)
	}
	all := schemas{}
	for name, text := range texts {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource(name, document); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if all[strings.TrimSuffix(name, ".schema.json")], err = c.Compile(name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return all
}

// check tells what the schema has against a file of a fleet; nil where the text
// is no TOML, which editors see without it.
func (s schemas) check(t *testing.T, name, text string) error {
	t.Helper()
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return nil
	}
	encoded, err := json.Marshal(tree)
	if err != nil {
		return nil // a NaN, say: JSON cannot have it
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	which := "host"
	if name == "cluster.toml" {
		which = "cluster"
	}
	return s[which].Validate(value)
}

// load returns the problems of a fleet, nil where it is valid.
func load(t *testing.T, files map[string]string) []hosts.Problem {
	t.Helper()
	folder := fstest.MapFS{}
	for name, text := range files {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	_, err := hosts.LoadFS(folder, ".")
	var invalid *hosts.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	if invalid == nil {
		return nil
	}
	return invalid.Problems
}

func shipped(t *testing.T) map[string]map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../hosts/fleets/*/*.toml")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d files of fleets: %v", len(paths), err)
	}
	fleets := map[string]map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fleet := filepath.Base(filepath.Dir(path))
		if fleets[fleet] == nil {
			fleets[fleet] = map[string]string{}
		}
		fleets[fleet][filepath.Base(path)] = string(text)
	}
	return fleets
}

// golden are the fleets that the loader is tested with, most of them broken.
func golden(t *testing.T) map[string]map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../hosts/testdata/problems/*.txtar")
	if err != nil || len(paths) < 80 {
		t.Fatalf("%d golden fleets: %v", len(paths), err)
	}
	fleets := map[string]map[string]string{}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for _, f := range archive.Files {
			if f.Name != "findings" {
				files[f.Name] = string(f.Data)
			}
		}
		fleets[filepath.Base(path)] = files
	}
	return fleets
}

func TestSchemasTakeShippedFleets(t *testing.T) {
	s := compile(t)
	for fleet, files := range shipped(t) {
		for name, text := range files {
			if err := s.check(t, name, text); err != nil {
				t.Errorf("%s/%s: %v", fleet, name, err)
			}
		}
	}
}

// someCluster and someHost are as little as a file needs.
const someCluster, someHost = "[cluster]\nname = \"t\"\n", "[host]\nroles = []\naddress = \"192.0.2.1\"\n"

// mistakes are what an editor is to notice while one types.
var mistakes = []struct{ file, text string }{
	{"cluster.toml", "[kubernetes]\nversion = \"1.36.3\"\n"},
	{"cluster.toml", "[cluster]\ndomain = \"x.org\"\n"},
	{"cluster.toml", "[cluster]\nname = \"Mercury\"\n"},
	{"cluster.toml", someCluster + "[clutser]\n"},
	{"cluster.toml", someCluster + someHost},
	{"cluster.toml", someCluster + "[kubernetes]\ncni = \"cilium\"\n"},
	{"cluster.toml", someCluster + "[kubernetes]\nversion = \"v1.36.3\"\n"},
	{"cluster.toml", someCluster + "[kubernetes.extra_args.kubelte]\nv = 4\n"},
	{"cluster.toml", someCluster + "[etcd]\nquota = \"8GB\"\n"},
	{"cluster.toml", someCluster + "[etcd]\nclient_port = 70000\n"},
	{"cluster.toml", someCluster + "[etcd]\nclient_port = \"2379\"\n"},
	{"cluster.toml", someCluster + "[network.wireguard]\nport = 1\n"},
	{"cluster.toml", someCluster + "[[network.route]]\nvia = \"192.0.2.1\"\n"},
	{"cluster.toml", someCluster + "[network.link.eth0]\nmtu = 9000.0\naddresses = \"192.0.2.1/24\"\n"},
	{"cluster.toml", someCluster + "[network.link.a-name-that-is-too-long]\n"},
	{"cluster.toml", someCluster + "[firewall.allow.ssh]\nprotocol = \"tpc\"\n"},
	{"cluster.toml", someCluster + "[snapshots]\nkeep_within = \"a week\"\n"},
	{"cluster.toml", someCluster + "[kernel.sysctl]\nnet.core.somaxconn = [1]\n"},
	{"cluster.toml", someCluster + "[pki.vault]\nca_file = \"/etc/ca.pem\"\n"},
	{"a.toml", "[wireguard]\naddress = \"10.9.0.1\"\n"},
	{"a.toml", "[host]\nroles = [\"master\"]\n"},
	{"a.toml", "[host]\naddress = \"192.0.2.1\"\n"},
	{"a.toml", someHost + "[etcd]\nquota = \"8GiB\"\n"},
	{"a.toml", someHost + "[metrics]\nlisten = \"everywhere\"\n"},
	{"a.toml", someHost + "[kernel]\nmodules = \"overlay\"\n"},
}

func TestSchemasRefuse(t *testing.T) {
	s := compile(t)
	for _, row := range mistakes {
		if s.check(t, row.file, row.text) == nil {
			t.Errorf("the schema takes %s:\n%s", row.file, row.text)
		}
	}
}

// What the schema refuses the loader refuses, of every fleet that the loader is
// tested with.
func TestSchemasRefuseNothingValid(t *testing.T) {
	s := compile(t)
	refused := 0
	for path, files := range golden(t) {
		problems := load(t, files)
		for name, text := range files {
			err := s.check(t, name, text)
			if err == nil {
				continue
			}
			refused++
			if !slices.ContainsFunc(problems, func(p hosts.Problem) bool { return p.File == name }) {
				t.Errorf("%s: the schema refuses %s, the loader does not: %v", path, name, err)
			}
		}
	}
	if refused < 40 {
		t.Errorf("the schemas refuse %d files of the golden fleets: too few to show anything", refused)
	}
}

// The same of the shipped fleets, each value and table of them changed in turn.
func TestSchemasRefuseNoValidChange(t *testing.T) {
	s := compile(t)
	tried, refused, seen := 0, 0, map[string]bool{}
	for fleet, files := range shipped(t) {
		for name, text := range files {
			var tree map[string]any
			if _, err := toml.Decode(text, &tree); err != nil {
				t.Fatal(err)
			}
			change(tree, func(what string) {
				if seen[what] { // of another host already
					return
				}
				seen[what] = true
				var changed bytes.Buffer
				if err := toml.NewEncoder(&changed).Encode(tree); err != nil {
					return // a list of mixed kinds, which its encoder does not write
				}
				tried++
				err := s.check(t, name, changed.String())
				if err == nil {
					return
				}
				refused++
				with := maps.Clone(files)
				with[name] = changed.String()
				if len(load(t, with)) == 0 {
					t.Errorf("%s/%s, %s: the schema refuses what the loader takes: %v", fleet, name, what, err)
				}
			})
		}
	}
	t.Logf("%d changes, of which the schemas refuse %d", tried, refused)
	if refused < tried/3 {
		t.Errorf("of %d changes the schemas refuse %d: too few to show anything", tried, refused)
	}
}

// change replaces each value of a tree by others, leaves it out, and adds an
// unknown key, one at a time, and puts it back.
func change(tree map[string]any, try func(what string)) {
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		old := tree[key]
		for _, other := range []any{int64(7), "x y", true, []any{"x"}, map[string]any{}} {
			tree[key] = other
			try(fmt.Sprintf("%s = %v", key, other))
		}
		delete(tree, key)
		try("without " + key)
		tree[key] = old
		switch below := old.(type) {
		case map[string]any:
			change(below, func(what string) { try(key + "." + what) })
		case []map[string]any:
			for i := range below {
				change(below[i], func(what string) { try(fmt.Sprintf("%s[%d].%s", key, i, what)) })
			}
		}
	}
	tree["zzz"] = "unknown"
	try("with zzz")
	delete(tree, "zzz")
}
