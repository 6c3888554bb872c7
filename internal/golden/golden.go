// Package golden compares what a test got with files that hold what it is to
// get. It is for tests alone: importing it registers the flag -update, with
// which the tests write those files anew. Read the difference before it is
// committed.
package golden

import (
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Check fails the test unless the file at path, relative to the test's package,
// holds got. A file that is missing is a failure.
func Check(t testing.TB, path, got string) {
	t.Helper()
	if *update {
		write(t, path, got)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%v; go test -update writes it", err)
		return
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; go test -update rewrites it):\n%s", path, diff)
	}
}

// CheckTree fails the test unless the files below dir are those in got, by
// their path below dir.
func CheckTree(t testing.TB, dir string, got map[string]string) {
	t.Helper()
	here := files(t, dir)
	for _, name := range here {
		if _, wanted := got[name]; wanted {
			continue
		}
		path := filepath.Join(dir, name)
		if !*update {
			t.Errorf("%s is there, and nothing made it (go test -update removes it)", path)
		} else if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		Check(t, filepath.Join(dir, name), got[name])
	}
}

// files are the paths of all files below dir, none where it is missing.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
