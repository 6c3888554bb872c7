package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/hosts"
)

func newExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [KEY]",
		Short: "Tell what a key of the fleet's files means",
		Long: `explain prints what a key of cluster.toml or of a host's file means: its type, the file
that may hold it, what holds where it is not there, an example, and the keys below it.
Without KEY it lists the tables of the files.

A name that you choose is NAME, or any name, or left out: network.link.NAME.mtu,
network.link.eth0.mtu and network.link.mtu are the same. A key that is there only once is
found by its last part. It is what nodeagent-spec(5) and docs/spec.md say, of the version
that runs, and needs neither a fleet nor root.`,
		Example: `  nodeagent explain
  nodeagent explain pki.lifetime
  nodeagent explain network.link.eth0.bond
  nodeagent explain pod_mtu -o json`,
		Args: atMostOne("KEY"), ValidArgsFunction: upTo(1, completeKey),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return o.explainAll()
			}
			k, err := hosts.Find(args[0])
			if err != nil {
				return withHint(err, "'nodeagent explain' lists the tables of the files")
			}
			if o.json() {
				return printJSON(o, explained(k))
			}
			return o.explain(k)
		},
	}
}

func (o *options) explainAll() error {
	if o.json() {
		return printJSON(o, map[string]any{"keys": briefs(hosts.Reference())})
	}
	out := newScreen(o.stdout)
	if out.table {
		fmt.Fprintf(o.stdout, "The tables of cluster.toml and of the hosts' files; 'nodeagent explain KEY' tells more.\n\n")
	}
	return out.rows(keyRows(hosts.Reference()))
}

// explain prints one key for people: how it is written, what it means, an
// example, what is below it.
func (o *options) explain(k *hosts.Key) error {
	out := newScreen(o.stdout)
	fmt.Fprintf(o.stdout, "%s\n\n", out.head(k.Path))
	for _, row := range keyFacts(k) {
		fmt.Fprintf(o.stdout, "  %-8s %s\n", row[0], row[1])
	}
	if k.Meaning != "" {
		fmt.Fprintf(o.stdout, "\n%s\n", wrap(plain(k.Sentence()), 80))
	}
	if k.Example != nil {
		fmt.Fprintf(o.stdout, "\n%s\n\n%s", out.head("EXAMPLE"), indent(k.Snippet()))
	}
	below := k.Children()
	if len(below) == 0 {
		return nil
	}
	if !out.table {
		fmt.Fprintf(o.stdout, "\nKEYS\n\n")
		return out.rows(keyRows(below))
	}
	return out.section("keys", keyRows(below))
}

// keyFacts are what there is to say of a key in a word or two.
func keyFacts(k *hosts.Key) [][2]string {
	kind := k.Type()
	value := k
	if k.Form == hosts.FormList {
		value = k.Each
	}
	switch {
	case len(value.Words) > 0:
		kind += ": " + strings.Join(quoted(value.Words), ", ")
	case value.TOML == "integer":
		kind += fmt.Sprintf(", %d to %d", value.Lowest, value.Highest)
	case value.TOML == "string" && value.Form == hosts.FormValue:
		kind += ", written as a string"
	}
	rows := [][2]string{{"type", kind}, {"file", fileOf(k)}}
	if k.Form == hosts.FormNamed && len(k.NameWords) > 0 {
		rows = append(rows, [2]string{"names", strings.Join(k.NameWords, ", ")})
	}
	if text := plain(k.WhenUnset()); text != "" {
		rows = append(rows, [2]string{"default", text})
	}
	if k.Since != "" {
		rows = append(rows, [2]string{"since", k.Since})
	}
	return rows
}

func fileOf(k *hosts.Key) string {
	return map[string]string{"cluster": "cluster.toml", "host": "a host's own", "any": "cluster.toml or a host's own"}[k.File]
}

func quoted(words []string) []string {
	var all []string
	for _, w := range words {
		all = append(all, hosts.TOML(w))
	}
	return all
}

// keyRows are keys in a table: path, type, meaning in short.
func keyRows(keys []*hosts.Key) [][]string {
	var rows [][]string
	for _, k := range keys {
		meaning := plain(k.Meaning)
		if first, _, more := strings.Cut(meaning, "; "); more {
			meaning = first
		}
		rows = append(rows, []string{k.Path, k.Type(), meaning})
	}
	return rows
}

var link = regexp.MustCompile(`\[([^]]+)\]\([^)]+\)`)

// plain is Markdown of the reference without its marks.
func plain(text string) string {
	return strings.ReplaceAll(link.ReplaceAllString(text, "$1"), "`", "")
}

// wrap breaks a text into lines of at most so many characters.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		length := len([]rune(word))
		switch {
		case column == 0:
		case column+1+length > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += length
	}
	return b.String()
}

func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = "  " + line
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// explanation is a key as JSON.
type explanation struct {
	Path     string   `json:"path"`
	Type     string   `json:"type"`
	File     string   `json:"file"`
	Words    []string `json:"words,omitempty"`
	Lowest   *int64   `json:"lowest,omitempty"`
	Highest  *int64   `json:"highest,omitempty"`
	Required bool     `json:"required"`
	Default  any      `json:"default"` // null where a file could not say it
	Unset    string   `json:"unset,omitempty"`
	Meaning  string   `json:"meaning,omitempty"`
	Example  string   `json:"example,omitempty"`
	Since    string   `json:"since,omitempty"`
	Keys     []brief  `json:"keys"`
}

// brief is a key below another one.
type brief struct {
	Path    string `json:"path"`
	Type    string `json:"type"`
	Meaning string `json:"meaning"`
}

func explained(k *hosts.Key) explanation {
	value := k
	if k.Form == hosts.FormList {
		value = k.Each
	}
	e := explanation{
		Path: k.Path, Type: k.Type(), File: k.File, Words: value.Words, Required: k.Required,
		Default: k.Default, Unset: plain(k.WhenUnset()), Meaning: plain(k.Meaning), Since: k.Since, Keys: briefs(k.Children()),
	}
	if value.TOML == "integer" {
		e.Lowest, e.Highest = &value.Lowest, &value.Highest
	}
	if k.Example != nil {
		e.Example = k.Snippet()
	}
	return e
}

func briefs(keys []*hosts.Key) []brief {
	all := []brief{}
	for _, k := range keys {
		all = append(all, brief{k.Path, k.Type(), plain(k.Meaning)})
	}
	return all
}

// completeKey proposes the next part of a key's path.
func completeKey(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, '.')+1]
	keys := hosts.Reference()
	if before != "" {
		k, err := hosts.Find(before)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		keys = k.Children()
	}
	var words []string
	for _, k := range keys {
		meaning, _, _ := strings.Cut(plain(k.Meaning), "; ")
		words = append(words, described(before+k.Name(), meaning))
	}
	return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
