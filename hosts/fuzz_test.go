package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// seeds adds every fleet that is shipped and every one of the golden files.
func seeds(f *testing.F) {
	f.Helper()
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		return string(content)
	}
	f.Add(read("fleets/mercury/cluster.toml"), read("fleets/mercury/mercury.toml"), "")
	f.Add(read("fleets/k8s-235/cluster.toml"), read("fleets/k8s-235/soarin.toml"), read("fleets/k8s-235/sassaflash.toml"))
	f.Add(read("fleets/hetzner-ha/cluster.toml"), read("fleets/hetzner-ha/bastion.toml"), read("fleets/hetzner-ha/fsn1.toml"))
	three := threeHosts()
	f.Add(everyNetworkKey["cluster.toml"], everyNetworkKey["a.toml"], everyNetworkKey["b.toml"])
	f.Add(three["cluster.toml"], three["a.toml"], three["c.toml"])
	paths, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		files := map[string]string{}
		for _, file := range archive.Files {
			files[file.Name] = string(file.Data)
		}
		f.Add(files["cluster.toml"], files["a.toml"], files["b.toml"])
	}
}

// Whatever the files hold, loading gives either a fleet whose specs hold what
// they promise, or problems of one line each that name their file.
func FuzzLoad(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, cluster, a, b string) {
		fsys := fstest.MapFS{"cluster.toml": {Data: []byte(cluster)}, "a.toml": {Data: []byte(a)}}
		if b != "" {
			fsys["b.toml"] = &fstest.MapFile{Data: []byte(b)}
		}
		fleet, err := LoadFS(fsys, ".")
		if again, errAgain := LoadFS(fsys, "."); (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("a second load differs:\n%v\n%v", err, errAgain)
		} else if diff := cmp.Diff(fleet, again, netipValues); diff != "" {
			t.Fatalf("a second load differs:\n%s", diff)
		}
		if err == nil {
			if len(fleet.Hosts) != len(fsys)-1 {
				t.Fatalf("%d hosts", len(fleet.Hosts))
			}
			for _, s := range fleet.Hosts {
				checkInvariants(t, s)
			}
			checkLines(t, fsys, fleet.Warnings)
			return
		}
		var invalid *InvalidError
		if !errors.As(err, &invalid) || len(invalid.Problems) == 0 || fleet != nil {
			t.Fatalf("fleet %v, error %v", fleet, err)
		}
		checkLines(t, fsys, invalid.Problems)
	})
}

// checkLines checks that problems name a file and a line that are there, and
// are one line each, each once.
func checkLines(t *testing.T, fsys fstest.MapFS, problems []Problem) {
	t.Helper()
	seen := map[Problem]bool{}
	for _, p := range problems {
		file, ok := fsys[p.File]
		if !ok || p.Line < 0 || p.Line > 1+strings.Count(string(file.Data), "\n") {
			t.Errorf("problem %q is not in a file", p)
		}
		if p.Reason == "" || strings.ContainsAny(p.Reason, "\n\r") || strings.ContainsAny(p.Field, "\n\r") {
			t.Errorf("problem %q is not one line", p)
		}
		if seen[p] {
			t.Errorf("problem %q is there twice", p)
		}
		seen[p] = true
	}
}

// Every key that the TOML library finds, the line index finds too: on a line
// that holds the key's last part, where that is written plainly.
func FuzzLines(f *testing.F) {
	f.Add("[a.b]\nc = [1, {d = 2}]\n\"e\" = '''\nx'''\nf = 3\n[[g]]\nh = 1\n[[g]]\nh = 2")
	f.Fuzz(func(t *testing.T, text string) {
		tree, _ := parseTree("f", text)
		if tree == nil {
			return
		}
		lines := strings.Split(strings.TrimPrefix(text, bom), "\n")
		var walk func(n *node)
		walk = func(n *node) {
			for key, child := range n.table {
				if child.line < 1 || child.line > len(lines) {
					t.Fatalf("%s is placed on line %d of %d", child.path, child.line, len(lines))
				}
				if isBareKey(key) && !strings.Contains(text, `\`) && !strings.Contains(lines[child.line-1], key) {
					t.Fatalf("%s is placed on line %d, which is %q", child.path, child.line, lines[child.line-1])
				}
				walk(child)
			}
			for _, item := range n.list {
				walk(item)
			}
		}
		walk(tree)
	})
}
