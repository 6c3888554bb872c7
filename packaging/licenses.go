package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// legalFile are the names of files that a licence demands to be passed on.
var legalFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// licenceFile are those that hold the licence itself.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying)`)

// enough is how much of a licence's file must be text that is known, in percent.
// The rest is names, headings and years.
const enough = 75

// legalText is one file of a module.
type legalText struct {
	name string   // below the module's folder, with slashes
	text string   // without spaces at the ends
	ids  []string // of the SPDX list, sorted; none for notices and patents
}

// legalTexts finds the files of a module that speak of its licence: in its own
// folder, and in those between there and the packages that are linked, where
// parts that were taken from elsewhere have theirs.
func legalTexts(m *module) ([]legalText, error) {
	var texts []legalText
	seen := map[string]bool{}
	for _, dir := range m.dirs {
		for ; !seen[dir] && within(dir, m.root); dir = filepath.Dir(dir) {
			seen[dir] = true
			found, err := legalTextsIn(dir, m.root)
			if err != nil {
				return nil, fmt.Errorf("look for the licence of %s: %w", m.path, err)
			}
			texts = append(texts, found...)
		}
	}
	slices.SortFunc(texts, func(a, b legalText) int { return strings.Compare(a.name, b.name) })
	if len(licenceIDs(texts)) == 0 {
		return nil, fmt.Errorf("module %s %s: no licence that is known in %s; it cannot be shipped before somebody has looked", m.path, m.version, m.root)
	}
	return texts, nil
}

// within tells whether a folder is the root or lies below it.
func within(dir, root string) bool {
	inside, err := filepath.Rel(root, dir)
	return err == nil && inside != ".." && !strings.HasPrefix(inside, ".."+string(filepath.Separator))
}

func legalTextsIn(dir, root string) ([]legalText, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var texts []legalText
	for _, e := range entries {
		if !e.Type().IsRegular() || !legalFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		t := legalText{name: filepath.ToSlash(name), text: strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))}
		if licenceFile.MatchString(e.Name()) {
			t.ids = identify(content)
		}
		texts = append(texts, t)
	}
	return texts, nil
}

// identify names the licences that a file consists of; none if too much of it is
// not known.
func identify(content []byte) []string {
	coverage := licensecheck.Scan(content)
	if coverage.Percent < enough {
		return nil
	}
	var ids []string
	for _, m := range coverage.Match {
		// A mere address of a licence, and licences that only Google names, are in
		// no list.
		if !m.IsURL && !strings.HasPrefix(m.ID, "Google") {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// licenceIDs are the licences of all texts, sorted.
func licenceIDs(texts []legalText) []string {
	var ids []string
	for _, t := range texts {
		ids = append(ids, t.ids...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
