package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorder is a test that notes its failures.
type recorder struct {
	testing.TB
	failures []string
}

func (*recorder) Helper() {}

func (r *recorder) Error(args ...any) { r.failures = append(r.failures, fmt.Sprint(args...)) }

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// updating sets -update for the length of f.
func updating(f func()) {
	*update = true
	defer func() { *update = false }()
	f()
}

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "file")
	r := &recorder{TB: t}
	Check(r, path, "a\n")
	if len(r.failures) != 1 || !strings.Contains(r.failures[0], "no such file") || !strings.Contains(r.failures[0], "-update") {
		t.Errorf("a missing file: %q", r.failures)
	}
	r.failures = nil
	updating(func() { Check(r, path, "a\n") })
	Check(r, path, "a\n")
	if len(r.failures) != 0 {
		t.Errorf("written and compared: %q", r.failures)
	}
	Check(r, path, "b\n")
	if len(r.failures) != 1 || !strings.Contains(r.failures[0], path+" differs") || !strings.Contains(r.failures[0], "b") {
		t.Errorf("another text: %q", r.failures)
	}
}

func TestCheckTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	r := &recorder{TB: t}
	CheckTree(r, dir, map[string]string{"a": "1", "b/c": "2"})
	if len(r.failures) != 2 {
		t.Errorf("a missing tree: %q", r.failures)
	}
	r.failures = nil
	updating(func() { CheckTree(r, dir, map[string]string{"a": "1", "b/c": "2"}) })
	CheckTree(r, dir, map[string]string{"a": "1", "b/c": "2"})
	if len(r.failures) != 0 {
		t.Errorf("written and compared: %q", r.failures)
	}
	CheckTree(r, dir, map[string]string{"b/c": "3"})
	if len(r.failures) != 2 || !strings.Contains(r.failures[0], "nothing made it") || !strings.Contains(r.failures[1], "differs") {
		t.Errorf("one more and another text: %q", r.failures)
	}
	updating(func() { CheckTree(r, dir, map[string]string{"b/c": "3"}) })
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("what nothing makes any more stays: %v", err)
	}
}
