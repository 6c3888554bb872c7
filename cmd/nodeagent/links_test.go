package main

import (
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// repositoryRoot is the repository's root as these tests see it.
const repositoryRoot = "../.."

// document is one Markdown file of the repository.
type document struct {
	path string // from the root
	text string
	// prose is the text without blocks of code; code is what stands in blocks and
	// between backquotes, a line each.
	prose string
	code  []string
}

// TestDocumentsNameWhatIsThere: every relative link of every document leads to a
// file, and to a heading of it; every make target, command and flag that one
// names exists.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	documents := readDocuments(t)
	targets := makeTargets(t)
	root := newRoot(io.Discard, io.Discard)
	root.InitDefaultHelpCmd()
	for _, d := range documents {
		for _, problem := range slices.Concat(d.brokenLinks(documents), d.unknownTargets(targets), d.unknownCommands(root)) {
			t.Errorf("%s: %s", d.path, problem)
		}
	}
	if len(documents) < 20 {
		t.Errorf("only %d documents were found", len(documents))
	}
}

// TestDocumentChecksFind: the checks above see what is wrong.
func TestDocumentChecksFind(t *testing.T) {
	there := newDocument("docs/there.md", "# Some `words`, here\n\n## Twice\n\n## Twice\n\n<a id=\"mark\"></a>\n")
	root := newRoot(io.Discard, io.Discard)
	for text, want := range map[string]int{
		"[a](there.md) [b](there.md#some-words-here) [c](there.md#mark) [d](there.md#twice-1) [e](https://example.org/x)": 0,
		"[a](gone.md)":       1,
		"[a](there.md#gone)": 1,
		"`make build` and `make test TESTFLAGS=-v`": 0,
		"`make nothing`": 1,
		"`nodeagent etcd status --hash`, `nodeagent plan -o json`": 0,
		"`nodeagent nothing`":        1,
		"`nodeagent etcd nothing`":   1,
		"`nodeagent plan --nothing`": 1,
		"```\nsudo nodeagent plan --nothing   # why\nmake nothing\n```\n[a](gone.md)": 3,
	} {
		d := newDocument("docs/one.md", text)
		documents := map[string]document{there.path: there, d.path: d}
		got := slices.Concat(d.brokenLinks(documents), d.unknownTargets([]string{"build", "test"}), d.unknownCommands(root))
		if len(got) != want {
			t.Errorf("in %q there are %d problems, want %d: %q", text, len(got), want, got)
		}
	}
}

func readDocuments(t *testing.T) map[string]document {
	t.Helper()
	documents := map[string]document{}
	err := filepath.WalkDir(repositoryRoot, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// internal/docs has the halves that docs/ is made from.
		if e.IsDir() && (e.Name() == "bin" || path == filepath.Join(repositoryRoot, "internal", "docs") || e.Name() == "testdata" || strings.HasPrefix(e.Name(), ".") && len(e.Name()) > 2) {
			return fs.SkipDir
		}
		if !e.Type().IsRegular() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(repositoryRoot, path)
		documents[filepath.ToSlash(name)] = newDocument(filepath.ToSlash(name), string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return documents
}

var inlineCode = regexp.MustCompile("`([^`\n]+)`")

func newDocument(path, text string) document {
	d := document{path: path, text: text}
	block, fleet := false, false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			block, fleet = !block, !block && strings.Contains(line, "toml")
		case block && fleet:
		case block:
			d.code = append(d.code, strings.TrimSpace(line))
		default:
			d.prose += line
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				d.code = append(d.code, m[1])
			}
		}
	}
	return d
}

var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// brokenLinks are the links to files or headings that are not there.
func (d document) brokenLinks(documents map[string]document) []string {
	var broken []string
	for _, m := range markdownLink.FindAllStringSubmatch(inlineCode.ReplaceAllString(d.prose, "code"), -1) {
		target, err := url.Parse(m[1])
		if err != nil || target.Scheme != "" {
			continue
		}
		path := d.path
		if target.Path != "" {
			path = filepath.ToSlash(filepath.Join(filepath.Dir(d.path), target.Path))
		}
		to, known := documents[path]
		if _, err := os.Stat(filepath.Join(repositoryRoot, path)); err != nil && !known {
			broken = append(broken, "the link "+m[1]+" leads nowhere")
		} else if target.Fragment != "" && known && !slices.Contains(to.anchors(), target.Fragment) {
			broken = append(broken, "the link "+m[1]+" leads to no heading of "+path)
		}
	}
	return broken
}

var (
	headingLine = regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchorTag   = regexp.MustCompile(`<a id="([^"]+)">`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are what can be linked to in the document, as GitHub names headings.
func (d document) anchors() []string {
	var anchors []string
	seen := map[string]int{}
	for _, m := range headingLine.FindAllStringSubmatch(d.prose, -1) {
		name := strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		seen[name]++
		if n := seen[name]; n > 1 {
			name += "-" + string(rune('0'+n-1))
		}
		anchors = append(anchors, name)
	}
	for _, m := range anchorTag.FindAllStringSubmatch(d.prose, -1) {
		anchors = append(anchors, m[1])
	}
	return anchors
}

var makeTarget = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)

func makeTargets(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repositoryRoot, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range makeTarget.FindAllStringSubmatch(string(text), -1) {
		targets = append(targets, m[1])
	}
	return targets
}

// called matches a program with its arguments where a line of code calls it.
func called(program string) *regexp.Regexp {
	return regexp.MustCompile(`(?:^|[;&|] *|sudo |ssh [a-z0-9]+ |\$ )` + program + ` ([^;&|#]*)`)
}

var (
	makeCall      = called("make")
	nodeagentCall = called("nodeagent")
)

func (d document) unknownTargets(targets []string) []string {
	var unknown []string
	for _, line := range d.code {
		for _, m := range makeCall.FindAllStringSubmatch(line, -1) {
			for _, word := range callWords(m[1]) {
				if !strings.Contains(word, "=") && strings.ToUpper(word) != word && !slices.Contains(targets, word) {
					unknown = append(unknown, "make has no target "+word)
				}
			}
		}
	}
	return unknown
}

// callWords are the words of a call, without what explains it two spaces on.
func callWords(call string) []string {
	call, _, _ = strings.Cut(call, "  ")
	return strings.Fields(call)
}

var commandWord = regexp.MustCompile(`^[a-z][a-z-]*$`)

// unknownCommands are the command lines of nodeagent that name a command or a
// flag that it has not. Words in capitals stand for something.
func (d document) unknownCommands(root *cobra.Command) []string {
	var unknown []string
	for _, line := range d.code {
		for _, m := range nodeagentCall.FindAllStringSubmatch(line, -1) {
			if problem := unknownIn(root, callWords(m[1])); problem != "" {
				unknown = append(unknown, "nodeagent "+strings.TrimSpace(m[1])+": "+problem)
			}
		}
	}
	return unknown
}

func unknownIn(cmd *cobra.Command, words []string) string {
	for _, word := range words {
		flag := strings.TrimRight(word, ",.…)]")
		flag, _, _ = strings.Cut(strings.TrimLeft(flag, "(["), "=")
		switch {
		case strings.HasPrefix(flag, "--"):
			name := strings.TrimPrefix(flag, "--")
			if name != "help" && name != "version" && cmd.Flag(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				return "no flag " + flag
			}
		case commandWord.MatchString(word) && hasCommands(cmd):
			next := subcommand(cmd, word)
			if next == nil {
				return "no command " + word
			}
			cmd = next
		case !strings.HasPrefix(word, "-"):
			// An argument; flags of the same command may follow.
			if !cmd.HasParent() {
				return ""
			}
		}
	}
	return ""
}

func hasCommands(cmd *cobra.Command) bool { return len(cmd.Commands()) > 0 }

func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}
