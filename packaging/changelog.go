package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// unreleased heads what is in no release yet.
const unreleased = "Unreleased"

// heading begins a version's section: "## [0.1.0] - 2026-11-22".
var heading = regexp.MustCompile(`^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$`)

// section is what the changelog says of one version.
type section struct {
	version string
	date    string // empty for what is unreleased
	text    string // Markdown, without the heading
}

// parseChangelog reads a changelog in the form of keepachangelog.com.
func parseChangelog(text string) ([]section, error) {
	var sections []section
	for i, line := range strings.Split(text, "\n") {
		if m := heading.FindStringSubmatch(line); m != nil {
			if (m[2] == "") != (m[1] == unreleased) {
				return nil, fmt.Errorf("line %d: a release has a date, and what is unreleased has none: %q", i+1, line)
			}
			sections = append(sections, section{version: m[1], date: m[2]})
			continue
		}
		if strings.HasPrefix(line, "## ") {
			return nil, fmt.Errorf("line %d: %q is no heading of a version, such as ## [0.1.0] - 2026-11-22", i+1, line)
		}
		if n := len(sections); n > 0 {
			sections[n-1].text += line + "\n"
		}
	}
	for i := range sections {
		sections[i].text = strings.TrimSpace(sections[i].text)
	}
	return sections, nil
}

// notesOf is the section of a version; a build that is no release has what is
// unreleased.
func notesOf(changelog, version string) (section, error) {
	sections, err := parseChangelog(changelog)
	if err != nil {
		return section{}, err
	}
	want := unreleased
	if isRelease(version) {
		want = plainVersion(version)
	}
	for _, s := range sections {
		if s.version == want {
			return s, nil
		}
	}
	return section{}, fmt.Errorf("no section [%s]; write one before the release", want)
}

// readNotes is notesOf the repository's changelog.
func readNotes(o options) (section, error) {
	path := filepath.Join(o.root, "CHANGELOG.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return section{}, err
	}
	s, err := notesOf(string(text), o.version)
	if err == nil && s.text == "" {
		err = errors.New("the section is empty")
	}
	if err != nil {
		return section{}, fmt.Errorf("read release notes of %q in %s: %w", o.version, path, err)
	}
	return s, nil
}

func printNotes(_ context.Context, o options, w io.Writer) error {
	s, err := readNotes(o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "# nodeagent %s\n\n%s\n", plainVersion(o.version), s.text)
	return err
}

// debianChangelog is the entry of a version in the form of Debian's policy:
// https://www.debian.org/doc/debian-policy/ch-source.html#s-dpkgchangelog
func debianChangelog(s section, version, maintainer string, at time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nodeagent (%s) unstable; urgency=medium\n\n", version)
	for _, point := range points(s.text) {
		b.WriteString(wrap("  * ", "    ", point))
	}
	fmt.Fprintf(&b, "\n -- %s  %s\n", maintainer, at.UTC().Format(time.RFC1123Z))
	return b.String()
}

// points are the list items of a Markdown text, each on one line.
func points(text string) []string {
	var list []string
	inside := false
	for line := range strings.SplitSeq(text, "\n") {
		item, begins := strings.CutPrefix(line, "- ")
		switch {
		case begins:
			list, inside = append(list, item), true
		case inside && strings.HasPrefix(line, "  "):
			list[len(list)-1] += " " + strings.TrimSpace(line)
		default:
			inside = false
		}
	}
	return list
}

// wrap breaks a line into lines of 78 characters at most.
func wrap(first, next, text string) string {
	var b strings.Builder
	line := first
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case len(line)+1+len(word) > 78:
			b.WriteString(line + "\n")
			line = next
		default:
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
	return b.String()
}
