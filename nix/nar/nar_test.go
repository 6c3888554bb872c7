package nar

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var before1970 = time.Unix(-1, 0)

// tree makes one of everything that an archive can hold.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for path, content := range map[string]string{
		"a/empty":         "",
		"a/eight":         "12345678",
		"a/nine":          "123456789",
		"a.b/sorted":      "a.b is after a, by bytes\n",
		"B/capital":       "before small letters\n",
		"name with space": "x",
		"ünïcode":         "bytes, not letters",
		"large":           strings.Repeat("0123456789", 100000),
	} {
		file := filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(content), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "a/program"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Symlink("../nowhere", filepath.Join(dir, "a/link")))
	must(t, os.Mkdir(filepath.Join(dir, "no files"), 0o700))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAgainstNix holds the hash against Nix's own.
func TestAgainstNix(t *testing.T) {
	if _, err := exec.LookPath("nix-hash"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; install Debian's nix-bin (make deps)", err)
		}
		t.Skipf("Nix says what is right: %v; install Debian's nix-bin (make deps)", err)
	}
	dir := tree(t)
	for _, path := range []string{"", "a", "no files", "a/program", "a/nine", "a/link"} {
		path = filepath.Join(dir, path)
		cmd := exec.Command("nix", "--extra-experimental-features", "nix-command", "hash", "path", "--sri", "--type", "sha256", path)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NIX_STATE_DIR="+t.TempDir())
		want, err := cmd.Output()
		must(t, err)
		got, err := Hash(path)
		must(t, err)
		if got != strings.TrimSpace(string(want)) {
			t.Errorf("%s: %s, and Nix says %s", path, got, want)
		}
	}
}

// TestAnyDifference: whatever Nix counts changes the hash, and nothing else does.
func TestAnyDifference(t *testing.T) {
	dir := tree(t)
	hash := func() string {
		h, err := Hash(dir)
		must(t, err)
		return h
	}
	before := hash()
	must(t, os.Chmod(filepath.Join(dir, "a/nine"), 0o600))
	must(t, os.Chtimes(filepath.Join(dir, "a"), before1970, before1970))
	if hash() != before {
		t.Error("times and permissions of others count")
	}
	for what, change := range map[string]func() error{
		"content":    func() error { return os.WriteFile(filepath.Join(dir, "a/nine"), []byte("123456780"), 0o600) },
		"executable": func() error { return os.Chmod(filepath.Join(dir, "a/nine"), 0o700) },
		"name":       func() error { return os.Rename(filepath.Join(dir, "a/nine"), filepath.Join(dir, "a/ten")) },
		"folder":     func() error { return os.Remove(filepath.Join(dir, "no files")) },
	} {
		was := hash()
		must(t, change())
		if hash() == was {
			t.Errorf("%s does not count", what)
		}
	}
}

// TestRefuses names what cannot be archived, and what could not be written.
func TestRefuses(t *testing.T) {
	if err := Write(&bytes.Buffer{}, os.DevNull); err == nil || !strings.Contains(err.Error(), "no file, link or folder") {
		t.Errorf("a device: %v", err)
	}
	if _, err := Hash(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("what does not exist has a hash")
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	if Write(full, tree(t)) == nil {
		t.Error("a full disk is no error")
	}
}
