package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

const exampleChangelog = `# Changelog

Words before.

## [Unreleased]

### Added

- A thing
  that goes on.

## [0.1.0] - 2026-11-22

- The first.
`

func TestNotesOf(t *testing.T) {
	for version, want := range map[string]string{
		"v0.1.0":            "- The first.",
		"0.1.0":             "- The first.",
		"v0.1.0-4-gabcdef0": "### Added\n\n- A thing\n  that goes on.",
		"abcdef0":           "### Added\n\n- A thing\n  that goes on.",
		"v0.2.0":            "",
	} {
		got, err := notesOf(exampleChangelog, version)
		if got.text != want || (err == nil) != (want != "") {
			t.Errorf("notes of %s: %q, %v, want %q", version, got.text, err, want)
		}
	}
	for _, broken := range []string{"## 0.1.0\n", "## [0.1.0]\n", "## [Unreleased] - 2026-11-22\n"} {
		if _, err := notesOf(broken, "v0.1.0"); err == nil {
			t.Errorf("a changelog with the heading %q is taken", broken)
		}
	}
}

func TestDebianChangelog(t *testing.T) {
	s, err := notesOf(exampleChangelog, "abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	s.text += "\n- " + strings.Repeat("word ", 30)
	got := debianChangelog(s, "0.1.0-1", "A <a@example.org>", time.Unix(1700000000, 0))
	want := `nodeagent (0.1.0-1) unstable; urgency=medium

  * A thing that goes on.
  * word word word word word word word word word word word word word word word
    word word word word word word word word word word word word word word word

 -- A <a@example.org>  Tue, 14 Nov 2023 22:13:20 +0000
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestOwnChangelog: the repository's own can be read, and says something of what
// is not released.
func TestOwnChangelog(t *testing.T) {
	text, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	s, err := notesOf(string(text), "abcdef0")
	if err != nil {
		t.Fatal(err)
	}
	if len(points(s.text)) == 0 {
		t.Errorf("no list of what is unreleased in:\n%s", s.text)
	}
}
