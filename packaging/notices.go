package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// legal is the legal texts of modules, by path.
type legal map[string][]legalText

// legalOf finds the texts of all modules but the binary's own.
func legalOf(l linked) (legal, error) {
	all := legal{}
	for _, m := range l.sorted() {
		texts, err := legalTexts(m)
		if err != nil {
			return nil, err
		}
		all[m.path] = texts
	}
	return all, nil
}

func printNotices(ctx context.Context, o options, w io.Writer) error {
	l, err := linkedInto(ctx, o.binary, o.root)
	if err != nil {
		return err
	}
	texts, err := legalOf(l)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, notices(l, texts))
	return err
}

// noticesHead stands before everything.
const noticesHead = `nodeagent is linked with the modules below. Each is used unchanged, under the
licence named beside it; the sources of each are what its path and version name,
for everybody who has Go: go mod download PATH@VERSION. The texts follow, each
once, with the modules that it comes with.

`

// notices is what their licences demand to be passed on, a text once.
func notices(l linked, all legal) string {
	var b strings.Builder
	b.WriteString(noticesHead)
	from := map[string][]string{} // text → where it stands
	for _, m := range l.sorted() {
		fmt.Fprintf(&b, "  %s %s  %s\n", displayName(m.path), m.version, strings.Join(licenceIDs(all[m.path]), ", "))
		for _, t := range all[m.path] {
			from[t.text] = append(from[t.text], displayName(m.path)+" "+m.version+" "+t.name)
		}
	}
	texts := slices.SortedFunc(maps.Keys(from), func(a, b string) int { return strings.Compare(from[a][0], from[b][0]) })
	for _, text := range texts {
		b.WriteString("\n" + strings.Repeat("-", 78) + "\n")
		for _, place := range from[text] {
			b.WriteString(place + "\n")
		}
		b.WriteString("\n" + text + "\n")
	}
	return b.String()
}

// displayName is a module's path in words for people.
func displayName(path string) string {
	if path == standard {
		return "Go's standard library and runtime"
	}
	return path
}
