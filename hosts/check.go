package hosts

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// findings collects problems and warnings.
type findings struct {
	problems, warnings []Problem
}

// at reports a problem with a value and marks it bad.
func (f *findings) at(n *node, format string, args ...any) {
	n.bad = true
	f.problems = append(f.problems, Problem{File: n.file, Line: n.line, Field: n.path, Reason: oneLine(fmt.Sprintf(format, args...))})
}

// missing reports that a key of a table is not there. Where the table itself
// is not there, only its file is known.
func (f *findings) missing(file string, parent *node, field, format string, args ...any) {
	p := Problem{File: file, Field: field, Reason: oneLine(fmt.Sprintf(format, args...))}
	if parent != nil {
		p.File, p.Line = parent.file, parent.line
	}
	f.problems = append(f.problems, p)
}

// warn reports something that does not make the fleet invalid.
func (f *findings) warn(file string, n *node, field, format string, args ...any) {
	p := Problem{File: file, Field: field, Reason: oneLine(fmt.Sprintf(format, args...))}
	if n != nil {
		p.File, p.Line = n.file, n.line
	}
	f.warnings = append(f.warnings, p)
}

// sorted returns problems by file, line, field and reason, each once: what is
// wrong in cluster.toml is found with every host.
func sorted(problems []Problem) []Problem {
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(problems)
}

// checker checks one file's tree against the schema and reads its values.
type checker struct {
	*findings
	scope scope // clusterFile or hostFile
}

// check goes down the tree. Bad values stay in it, marked, so that nothing
// reports them as missing.
func (c checker) check(n *node, r *rule) {
	if n.bad {
		return
	}
	if r.only != anyFile && r.only != c.scope {
		c.misplaced(n, r.only)
		return
	}
	switch r.form {
	case formLeaf:
		c.checkLeaf(n, r.leaf)
	case formTable:
		c.checkTable(n, r)
	case formNamed:
		c.checkNamed(n, r)
	case formFlat:
		c.checkFlat(n, r)
	case formList:
		c.checkList(n, r)
	case formFree:
		c.checkFree(n)
	}
}

func (c checker) misplaced(n *node, belongs scope) {
	if belongs == clusterFile {
		c.at(n, "belongs to the whole cluster: write it in %s", clusterTOML)
		return
	}
	c.at(n, "differs from host to host: write it in each host's file")
}

func (c checker) checkLeaf(n *node, l leaf) {
	kind, article := n.kind(), "a "
	if strings.ContainsRune("aeiou", rune(l.kind[0])) {
		article = "an "
	}
	// Tables and lists are never a leaf; a scalar leaf judges by itself.
	if n.table != nil || n.list != nil || l.kind != "scalar" && kind != article+l.kind {
		want := article + l.kind
		if l.kind != l.shape {
			want += " (" + l.shape + ")"
		}
		if l.kind == "scalar" {
			want = "a " + l.shape
		}
		c.at(n, "must be %s, not %s", want, kind)
		return
	}
	parsed, err := l.parse(n.value)
	if err != nil {
		c.at(n, "%s", err)
		return
	}
	n.parsed = parsed
}

func (c checker) checkTable(n *node, r *rule) {
	if n.table == nil {
		c.at(n, "must be a table, not %s", n.kind())
		return
	}
	for _, key := range n.names() {
		child := n.table[key]
		if child.bad {
			continue
		}
		if known, ok := r.keys[key]; ok {
			c.check(child, known)
			continue
		}
		c.at(child, "unknown key%s", suggestKey(n.path, key, r))
	}
}

func (c checker) checkNamed(n *node, r *rule) {
	if n.list != nil {
		c.at(n, "must be one table for each name, [%s.NAME], not a list", n.path)
		return
	}
	if n.table == nil {
		c.at(n, "must be a table, not %s", n.kind())
		return
	}
	for _, key := range n.names() {
		child := n.table[key]
		if child.bad {
			continue
		}
		if err := r.name.check(key); err != nil {
			c.at(child, "%s", err)
			continue
		}
		c.check(child, r.each)
	}
}

// checkFlat turns nested tables into dotted names: TOML reads an unquoted
// net.ipv4.ip_forward as three tables, and means the same.
func (c checker) checkFlat(n *node, r *rule) {
	if n.table == nil {
		c.at(n, "must be a table, not %s", n.kind())
		return
	}
	flattened := map[string]*node{}
	for _, leaf := range n.flatten("") {
		other, twice := flattened[leaf.name]
		if twice && !leaf.node.bad {
			c.at(leaf.node, "is set twice: also at %s", other.place())
			continue
		}
		flattened[leaf.name] = leaf.node
		leaf.node.path = n.path + "." + leaf.name
		if !sysctlPattern.MatchString(leaf.name) {
			leaf.node.path = joinPath(n.path, leaf.name)
		}
		if leaf.node.bad {
			continue
		}
		if err := r.name.check(leaf.name); err != nil {
			c.at(leaf.node, "%s", err)
			continue
		}
		c.check(leaf.node, r.each)
	}
	n.table = flattened
}

type namedNode struct {
	name string
	node *node
}

// flatten returns the values below a table by dotted name, in the order in
// which they stand in the file.
func (n *node) flatten(prefix string) []namedNode {
	var leaves []namedNode
	for _, key := range n.names() {
		child := n.table[key]
		if len(child.table) > 0 {
			leaves = append(leaves, child.flatten(prefix+key+".")...)
			continue
		}
		leaves = append(leaves, namedNode{prefix + key, child})
	}
	slices.SortStableFunc(leaves, func(a, b namedNode) int {
		return cmp.Or(cmp.Compare(a.node.line, b.node.line), cmp.Compare(a.name, b.name))
	})
	return leaves
}

func (c checker) checkList(n *node, r *rule) {
	if n.list == nil {
		what := "a list"
		if r.each.form == formTable {
			what = fmt.Sprintf("a list of tables, [[%s]]", n.path)
		}
		c.at(n, "must be %s, not %s", what, n.kind())
		return
	}
	for _, item := range n.list {
		c.check(item, r.each)
	}
}

// checkFree checks what is handed on to a component: a table of values that
// every format can hold.
func (c checker) checkFree(n *node) {
	if n.table == nil {
		c.at(n, "must be a table, not %s", n.kind())
		return
	}
	c.checkFreeValues(n)
}

func (c checker) checkFreeValues(n *node) {
	for _, item := range n.list {
		c.checkFreeValues(item)
	}
	for _, key := range n.names() {
		c.checkFreeValues(n.table[key])
	}
	if n.bad {
		return
	}
	switch v := n.value.(type) {
	case time.Time:
		c.at(n, "must be a string: the component's format has no dates")
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			c.at(n, "must be a finite number")
		}
	}
}

// free returns a free table as plain values.
func (n *node) free() any {
	switch {
	case n.table != nil:
		values := make(map[string]any, len(n.table))
		for key, child := range n.table {
			values[key] = child.free()
		}
		return values
	case n.list != nil:
		values := make([]any, len(n.list))
		for i, item := range n.list {
			values[i] = item.free()
		}
		return values
	}
	return n.value
}

// oneOf is for names that are one of a few.
func oneOf(what string, names []string) naming {
	return naming{shape: what, words: names, check: func(s string) error {
		if slices.Contains(names, s) {
			return nil
		}
		return fmt.Errorf("%s is not a %s: it is one of %s%s", quote(s), what, list(names), didYouMean(s, names))
	}}
}

func checkRuleName(s string) error {
	if s == "" || len(s) > 60 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		return errors.New("the name of a rule must be 1 to 60 plain characters")
	}
	return nil
}
