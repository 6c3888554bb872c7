package hosts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/nodeagent/nodeagent/internal/golden"
)

// folder is a fleet held in memory: file name to content.
func folder(files map[string]string) fs.FS {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return fsys
}

// findingsOf loads a fleet and returns what it has to say, one line each.
func findingsOf(t *testing.T, files map[string]string) []string {
	t.Helper()
	fleet, err := LoadFS(folder(files), ".")
	var lines []string
	var invalid *InvalidError
	switch {
	case errors.As(err, &invalid):
		if fleet != nil {
			t.Error("there is a fleet beside the problems")
		}
		if len(invalid.Problems) == 0 {
			t.Error("the fleet is invalid without a problem")
		}
		for _, p := range invalid.Problems {
			lines = append(lines, p.String())
		}
	case err != nil:
		t.Fatal(err)
	default:
		for _, w := range fleet.Warnings {
			lines = append(lines, "warning: "+w.String())
		}
	}
	return lines
}

// Each file below testdata/problems is a fleet and, last, exactly the lines
// that loading it gives.
func TestProblems(t *testing.T) {
	paths, err := filepath.Glob("testdata/problems/*.txtar")
	if err != nil || len(paths) < 80 {
		t.Fatalf("%d golden fleets, %v: some are missing", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			var want *txtar.File
			for i, f := range archive.Files {
				if f.Name == "findings" {
					want = &archive.Files[i]
					continue
				}
				files[f.Name] = string(f.Data)
			}
			if want == nil {
				t.Fatal("the archive has no file named findings")
			}
			want.Data = []byte(strings.Join(findingsOf(t, files), "\n") + "\n")
			golden.Check(t, path, string(txtar.Format(archive)))
		})
	}
}

const (
	plainCluster = "[cluster]\nname = \"t\"\n"
	plainHost    = "[host]\nroles = []\naddress = \"192.0.2.1\"\n"
)

// hosts with files that are no fleet as a whole.
func TestFolders(t *testing.T) {
	for _, row := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", map[string]string{"README.md": "x"}, []string{
			"cluster.toml: is missing: a fleet is a folder with cluster.toml and one file for each host",
		}},
		{"no host", map[string]string{"cluster.toml": plainCluster}, []string{
			"cluster.toml: the fleet has no host: add a file <host>.toml beside this one",
		}},
		{"no cluster.toml, and its host is still checked", map[string]string{"a.toml": plainHost + "colour = 1\n"}, []string{
			"a.toml:4: host.colour: unknown key: [host] has address, pod_range and roles",
			"cluster.toml: is missing: a fleet is a folder with cluster.toml and one file for each host",
		}},
		{"a name that no host can have", map[string]string{"cluster.toml": plainCluster, "My_Host.toml": plainHost}, []string{
			`My_Host.toml: the file's name is the host's name, but "My_Host" is not one: use lower-case letters, digits and dashes, at most 63`,
		}},
		{"one file is no TOML, the others are still checked", map[string]string{"cluster.toml": plainCluster + "[etcd]\nquota = 5\n", "a.toml": "[", "b.toml": plainHost}, []string{
			"a.toml:1: not valid TOML: unexpected end of table name (table names cannot be empty)",
			"cluster.toml:4: etcd.quota: must be a string (size), not an integer",
		}},
		{"other files and hidden ones do not count", map[string]string{"cluster.toml": plainCluster, "a.toml": plainHost, ".#a.toml": "[", "a.toml~": "[", "notes.txt": "[", "sub/b.toml": "["}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, findingsOf(t, row.files)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadOfNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(t.TempDir(), "nowhere"), file} {
		_, err := Load(dir)
		var invalid *InvalidError
		if err == nil || errors.As(err, &invalid) {
			t.Fatalf("Load(%q) gives %v, want an ordinary error", dir, err)
		}
		if !strings.HasPrefix(err.Error(), `read fleet "`+dir+`": `) || !strings.Contains(err.Error(), "name the folder that holds cluster.toml") {
			t.Errorf("error %q does not name the folder and a remedy", err)
		}
	}
}

// A host's file that cannot be read is an ordinary error too: nothing can be
// said about the fleet.
func TestLoadOfUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, clusterTOML), []byte(plainCluster), 0o600); err != nil {
		t.Fatal(err)
	}
	// A link to nowhere cannot be read by root either.
	if err := os.Symlink("nowhere", filepath.Join(dir, "a.toml")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(dir)
	if err == nil || !strings.Contains(err.Error(), `read "a.toml"`) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load gives %v", err)
	}
}

func TestLoadNamesItsFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cluster.toml", plainCluster)
	write("a.toml", plainHost)
	fleet, err := Load(dir)
	if err != nil || fleet.Dir != dir {
		t.Fatalf("Load gives %+v, %v", fleet, err)
	}
	_, err = fleet.Host("b")
	if err == nil || !strings.Contains(err.Error(), "it has a; add b.toml for it") {
		t.Errorf("Host of an unknown name gives %v", err)
	}
	write("a.toml", "x = 1")
	_, err = Load(dir)
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Dir != dir {
		t.Errorf("Load gives %v", err)
	}
}

// A pipe would be waited for, for ever; a folder is named as what it is.
func TestFilesThatAreNoFiles(t *testing.T) {
	for name, file := range map[string]*fstest.MapFile{
		"is not a regular file": {Mode: fs.ModeNamedPipe},
		"no file of a fleet":    {Data: make([]byte, maxFile+1)},
	} {
		fsys := fstest.MapFS{"cluster.toml": {Data: []byte(plainCluster)}, "a.toml": file}
		_, err := LoadFS(fsys, ".")
		var invalid *InvalidError
		if !errors.As(err, &invalid) || len(invalid.Problems) != 1 || invalid.Problems[0].File != "a.toml" || !strings.Contains(invalid.Problems[0].Reason, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
