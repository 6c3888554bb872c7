package hosts

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a fleet.
type Problem struct {
	File   string `json:"file"`  // relative to the fleet's folder, or the folder itself
	Line   int    `json:"line"`  // from 1; 0 where the whole file is meant
	Field  string `json:"field"` // dotted TOML path
	Reason string `json:"reason"`
}

// String returns "file:line: field: reason", leaving out what is not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Field != "" {
		fmt.Fprintf(&b, ": %s", p.Field)
	}
	fmt.Fprintf(&b, ": %s", p.Reason)
	return b.String()
}

// InvalidError is the error of a fleet that does not pass: every problem, at
// least one.
type InvalidError struct {
	Dir      string
	Problems []Problem
}

// Error returns one line for each problem.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
