package docs

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// specSource is docs/spec.md with a line {{keys "group"}} where a table belongs.
//
//go:embed spec.md
var specSource string

var keysLine = regexp.MustCompile(`(?m)^\{\{keys "([a-z]+)"\}\}$`)

const generated = "<!-- Made by `make docs` from %s: change these, not this file. -->\n\n"

// Spec makes docs/spec.md.
func Spec() ([]byte, error) {
	text, err := withKeys(keyTable)
	if err != nil {
		return nil, err
	}
	return []byte(fmt.Sprintf(generated, "hosts/reference and internal/docs/spec.md") + text), nil
}

// withKeys puts each group of keys in its place in the prose.
func withKeys(render func([]*hosts.Key) string) (string, error) {
	left := hosts.Groups()
	var unknown []string
	text := keysLine.ReplaceAllStringFunc(specSource, func(line string) string {
		name := keysLine.FindStringSubmatch(line)[1]
		i := slices.Index(left, name)
		if i < 0 {
			unknown = append(unknown, name)
			return line
		}
		left = slices.Delete(left, i, i+1)
		return render(hosts.Group(name))
	})
	if len(left)+len(unknown) > 0 {
		return "", fmt.Errorf("place keys in internal/docs/spec.md: no place for %q, and hosts/reference has no more of %q", left, unknown)
	}
	return text, nil
}

// keyTable is the rows of some keys, and below them the examples of those that
// are tables.
func keyTable(keys []*hosts.Key) string {
	var b strings.Builder
	b.WriteString("| key | type | file | default | meaning | example | since |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	var tables []string
	for _, k := range keys {
		example := ""
		if isTable(k) {
			tables = append(tables, fmt.Sprintf("```toml\n%s```\n", k.Snippet()))
		} else {
			example = code(hosts.TOML(k.Example))
		}
		cells := []string{code(k.Path), k.Type(), k.File, k.WhenUnset(), k.Meaning, example, k.Since}
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		row := "| " + strings.Join(cells, " | ") + " |"
		b.WriteString(strings.ReplaceAll(row, "|  |", "| |") + "\n")
	}
	if len(tables) > 0 {
		what := "Example"
		if len(tables) > 1 {
			what = "Examples"
		}
		fmt.Fprintf(&b, "\n<details><summary>%s</summary>\n\n%s\n</details>", what, strings.Join(tables, "\n"))
	}
	return strings.TrimRight(b.String(), "\n")
}

func code(s string) string {
	return "`" + s + "`"
}
