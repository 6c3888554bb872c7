package hosts

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// node is one value of a fleet's files and where it stands. Trees of nodes are
// what the files are parsed into, what is checked against the schema, and what
// is joined: a joined tree still knows the file of every value.
type node struct {
	file string
	line int
	path string // dotted, as problems name it: kernel.sysctl.net.ipv4.ip_forward

	// Exactly one of table, list and value is set, by the kind of value.
	table map[string]*node
	list  []*node
	value any // string, int64, float64, bool or time.Time

	// parsed is the value as the schema's leaf understands it.
	parsed any
	// bad marks a value that a problem was reported for. Checks that would
	// build on it are left out, so that one mistake is one line.
	bad bool
}

// broken tells whether the value, or anything below it, is bad.
func (n *node) broken() bool {
	if n == nil {
		return false
	}
	if n.bad || slices.ContainsFunc(n.list, (*node).broken) {
		return true
	}
	for _, child := range n.table {
		if child.broken() {
			return true
		}
	}
	return false
}

// kind says what the value is, for "must be …, not …".
func (n *node) kind() string {
	switch {
	case n.table != nil:
		return "a table"
	case n.list != nil:
		return "a list"
	}
	switch n.value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	}
	return "a date or time"
}

// place is "file:line", as Spec.Defined has it.
func (n *node) place() string { return fmt.Sprintf("%s:%d", n.file, n.line) }

// get returns the node at a dotted path below a table, nil where there is none.
// It is for the schema's own keys, which have no dots in them.
func (n *node) get(path string) *node {
	for key := range strings.SplitSeq(path, ".") {
		if n == nil || n.table == nil {
			return nil
		}
		n = n.table[key]
	}
	return n
}

// names returns a table's keys, sorted.
func (n *node) names() []string {
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.table))
}

// maxFile is the largest file that is read, in bytes; one host's file has about
// a thousand.
const maxFile = 1 << 20

// readTree parses one file. A file that is no TOML gives nil and a problem.
func readTree(fsys fs.FS, name, path string) (tree *node, problem *Problem, content []byte, err error) {
	// A pipe would hold the reader up for ever.
	info, err := fs.Stat(fsys, path)
	switch {
	case err != nil: // said below
	case !info.Mode().IsRegular():
		return nil, &Problem{File: name, Reason: "is not a regular file: remove it from the fleet"}, nil, nil
	case info.Size() > maxFile:
		return nil, &Problem{File: name, Reason: fmt.Sprintf("has %d bytes, and no file of a fleet has more than %d", info.Size(), maxFile)}, nil, nil
	}
	content, err = fs.ReadFile(fsys, path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read %q: %w; make the file readable, or remove it from the fleet", name, err)
	}
	tree, problem = parseTree(name, string(content))
	return tree, problem, content, nil
}

func parseTree(file, text string) (tree *node, problem *Problem) {
	// The library panics on what it thinks cannot be; a fleet's file must not
	// take the agent down with it.
	defer func() {
		if r := recover(); r != nil {
			tree, problem = nil, &Problem{File: file, Reason: "the file cannot be read as TOML"}
		}
	}()
	var document map[string]any
	if _, err := toml.Decode(text, &document); err != nil {
		return nil, syntaxProblem(file, text, err)
	}
	at, twice := indexLines(text)
	if len(twice) > 0 {
		// The library overlooks that "a.b = 1" and "a = 2" are both about a.
		return nil, &Problem{File: file, Line: twice[0].line, Field: twice[0].path, Reason: "not valid TOML: the key has a value already"}
	}
	return buildNode(document, at, file, ""), nil
}

// syntaxProblem makes a problem of the library's error. Its message may quote
// the text, so where that looks like a secret the message is left out.
func syntaxProblem(file, text string, err error) *Problem {
	p := &Problem{File: file, Reason: "not valid TOML"}
	parse, ok := err.(toml.ParseError)
	if !ok {
		return p
	}
	// The library counts the line end that it stumbles over to the next line.
	plain := strings.TrimPrefix(text, bom)
	before := plain[:min(parse.Position.Start, len(plain))]
	p.Line = 1 + strings.Count(before, "\n")
	source := strings.Split(text, "\n")
	if p.Line >= 1 && p.Line <= len(source) && lineMayHoldSecret(source[p.Line-1]) {
		return p
	}
	message := strings.TrimSuffix(oneLine(parse.Message), ".")
	if !strings.HasPrefix(message, "TOML") && message != "" {
		message = strings.ToLower(message[:1]) + message[1:]
	}
	p.Reason = "not valid TOML: " + message
	return p
}

func buildNode(value any, at *lines, file, path string) *node {
	n := &node{file: file, line: at.line, path: path}
	switch v := value.(type) {
	case map[string]any:
		n.table = make(map[string]*node, len(v))
		for key, child := range v {
			n.table[key] = buildNode(child, at.key(key), file, joinPath(path, key))
		}
	case []map[string]any:
		n.list = make([]*node, len(v))
		for i, child := range v {
			n.list[i] = buildNode(child, at.item(i), file, path)
		}
	case []any:
		n.list = make([]*node, len(v))
		for i, child := range v {
			n.list[i] = buildNode(child, at.item(i), file, path)
		}
	default:
		n.value = v
	}
	return n
}

// joinPath adds a key to a dotted path, in quotes where TOML wants them.
func joinPath(path, key string) string {
	if !isBareKey(key) {
		key = fmt.Sprintf("%q", key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func isBareKey(key string) bool {
	for _, c := range []byte(key) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return key != ""
}

// join lays a host's tree over the cluster's: tables are merged key by key,
// lists are joined with the cluster's entries first, and any other value of
// the host replaces the cluster's.
func join(cluster, host *node) *node {
	switch {
	case cluster == nil:
		return host
	case host == nil:
		return cluster
	case cluster.table != nil && host.table != nil:
		return joinTables(cluster, host)
	case cluster.list != nil && host.list != nil:
		joined := *host
		joined.list = slices.Concat(cluster.list, host.list)
		return &joined
	}
	return host
}

func joinTables(cluster, host *node) *node {
	joined := *host
	joined.table = make(map[string]*node, len(cluster.table)+len(host.table))
	for key := range cluster.table {
		joined.table[key] = join(cluster.table[key], host.table[key])
	}
	for key, child := range host.table {
		if cluster.table[key] == nil {
			joined.table[key] = child
		}
	}
	return &joined
}

// defined notes the place of every value below the node under its path. Entries
// of a list are noted under "path[i]", i counting from 0 in the joined list.
func (n *node) defined(into map[string]string, path string) {
	into[path] = n.place()
	for _, child := range n.table {
		child.defined(into, path+strings.TrimPrefix(child.path, n.path))
	}
	for i, child := range n.list {
		child.defined(into, fmt.Sprintf("%s[%d]", path, i))
	}
}
