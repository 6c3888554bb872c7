package hosts

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// The TOML library tells the values of a document but not where they stand. A
// lineIndex fills this gap: a tree of the same shape as the document that holds
// line numbers only. It is built from text that the library has accepted, so it
// need not judge the text, only find its way; where it loses it (which the
// fuzz test looks for), a value takes its parent's line.

// lines is one value's place in a document: its line, counted from 1, and its
// parts' places.
type lines struct {
	line  int
	keys  map[string]*lines // of a table
	items []*lines          // of an array, or of an array of tables
}

// key returns the place of a key, or the table's own where it is not known.
func (l *lines) key(name string) *lines {
	if child, ok := l.keys[name]; ok {
		return child
	}
	return &lines{line: l.line}
}

// item returns the place of an item, or the array's own where it is not known.
func (l *lines) item(i int) *lines {
	if i < len(l.items) {
		return l.items[i]
	}
	return &lines{line: l.line}
}

// add returns the place of a key, made at the given line if it is new. A key
// that names an array of tables leads to its last table, as in TOML.
func (l *lines) add(name string, line int) *lines {
	child, ok := l.keys[name]
	if !ok {
		child = &lines{line: line}
		if l.keys == nil {
			l.keys = map[string]*lines{}
		}
		l.keys[name] = child
	}
	return child
}

func (l *lines) last() *lines {
	if n := len(l.items); n > 0 {
		return l.items[n-1]
	}
	return l
}

func (l *lines) walk(path []string, line int) *lines {
	for _, name := range path {
		l = l.add(name, line).last()
	}
	return l
}

// bom is the byte order mark that some editors begin a file with.
const bom = "\ufeff"

// scanner reads a document from left to right.
type scanner struct {
	text  string
	pos   int
	line  int
	twice []place // keys that are given a value when they have one
}

// place is a key and its line.
type place struct {
	path string
	line int
}

// indexLines builds the index of a document that the TOML library accepts, and
// tells of keys that are given a value twice.
func indexLines(text string) (*lines, []place) {
	s := &scanner{text: strings.TrimPrefix(text, bom), line: 1}
	root := &lines{line: 1}
	table := root
	for {
		s.skipSpace(true)
		if s.pos >= len(s.text) {
			return root, s.twice
		}
		start := s.pos
		if s.peek() == '[' {
			table = s.header(root)
		} else {
			s.keyValue(table)
		}
		if s.pos == start { // lost: never stay in place
			s.pos++
		}
	}
}

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// next takes one byte and counts lines.
func (s *scanner) next() byte {
	if s.pos >= len(s.text) {
		return 0
	}
	c := s.text[s.pos]
	if c == '\n' {
		s.line++
	}
	s.pos++
	return c
}

// skipSpace skips blanks, and with newlines also line ends and comments.
func (s *scanner) skipSpace(newlines bool) {
	for s.pos < len(s.text) {
		switch c := s.peek(); {
		case c == ' ' || c == '\t':
			s.pos++
		case newlines && (c == '\n' || c == '\r'):
			s.next()
		case newlines && c == '#':
			for s.pos < len(s.text) && s.peek() != '\n' {
				s.pos++
			}
		default:
			return
		}
	}
}

// header reads "[a.b]" or "[[a.b]]" and returns the table that it opens.
func (s *scanner) header(root *lines) *lines {
	line := s.line
	s.pos++
	array := s.peek() == '['
	if array {
		s.pos++
	}
	path := s.keyPath()
	for s.peek() == ']' {
		s.pos++
	}
	if len(path) == 0 {
		return root
	}
	parent := root.walk(path[:len(path)-1], line)
	table := parent.add(path[len(path)-1], line)
	if array {
		table.items = append(table.items, &lines{line: line})
		return table.last()
	}
	table.line = line // a header says more than an earlier [table.child]
	return table
}

// keyValue reads "a.b = value" into the table.
func (s *scanner) keyValue(table *lines) {
	line := s.line
	path := s.keyPath()
	if s.peek() == '=' {
		s.pos++
	}
	s.skipSpace(false)
	parent, last := table.walk(path[:len(path)-1], line), path[len(path)-1]
	if _, there := parent.keys[last]; there {
		s.twice = append(s.twice, place{strings.Join(path, "."), line})
	}
	s.value(parent.add(last, line))
}

// keyPath reads a dotted key and the blanks after it.
func (s *scanner) keyPath() []string {
	var path []string
	for {
		s.skipSpace(false)
		path = append(path, s.keyPart())
		s.skipSpace(false)
		if s.peek() != '.' {
			return path
		}
		s.pos++
	}
}

func (s *scanner) keyPart() string {
	if c := s.peek(); c == '"' || c == '\'' {
		return s.quoted(c)
	}
	start := s.pos
	for s.pos < len(s.text) && !strings.ContainsRune(" \t\r\n.=[]{}#,\"'", rune(s.peek())) {
		s.pos++
	}
	return s.text[start:s.pos]
}

// quoted reads a string of one line, with its escapes where the quote is '"'.
func (s *scanner) quoted(quote byte) string {
	s.pos++
	var b strings.Builder
	for s.pos < len(s.text) && s.peek() != quote && s.peek() != '\n' {
		c := s.next()
		if c == '\\' && quote == '"' {
			b.WriteString(s.escape())
			continue
		}
		b.WriteByte(c)
	}
	if s.peek() == quote {
		s.pos++
	}
	return b.String()
}

// escape reads what follows a backslash.
func (s *scanner) escape() string {
	digits := 0
	switch c := s.next(); c {
	case 'b':
		return "\b"
	case 't':
		return "\t"
	case 'n':
		return "\n"
	case 'f':
		return "\f"
	case 'r':
		return "\r"
	case 'e':
		return "\x1b"
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return string(c)
	}
	end := min(s.pos+digits, len(s.text))
	code, err := strconv.ParseUint(s.text[s.pos:end], 16, 32)
	if err != nil || code > utf8.MaxRune {
		return ""
	}
	s.pos = end
	return string(rune(code))
}

// value reads one value and notes where its parts stand.
func (s *scanner) value(at *lines) {
	switch c := s.peek(); c {
	case '"', '\'':
		if triple := strings.Repeat(string(c), 3); strings.HasPrefix(s.text[s.pos:], triple) {
			s.multiline(c)
			return
		}
		s.quoted(c)
	case '[':
		s.array(at)
	case '{':
		s.inlineTable(at)
	default:
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\r\n", rune(s.peek())) {
			s.pos++
		}
	}
}

// multiline skips a string in triple quotes. Up to two quotes may stand right
// before the closing three.
func (s *scanner) multiline(quote byte) {
	s.pos += 3
	for run := 0; s.pos < len(s.text); {
		c := s.next()
		switch {
		case c == quote:
			run++
		case c == '\\' && quote == '"':
			s.next()
			run = 0
		default:
			run = 0
		}
		if run >= 3 {
			for range 2 {
				if s.peek() == quote {
					s.pos++
				}
			}
			return
		}
	}
}

func (s *scanner) array(at *lines) {
	s.elements(']', func() {
		item := &lines{line: s.line}
		at.items = append(at.items, item)
		s.value(item)
	})
}

func (s *scanner) inlineTable(at *lines) {
	s.elements('}', func() { s.keyValue(at) })
}

// elements reads what stands between two brackets, up to where an element is none.
func (s *scanner) elements(end byte, element func()) {
	s.pos++
	for s.pos < len(s.text) {
		s.skipSpace(true)
		switch s.peek() {
		case end:
			s.pos++
			return
		case ',':
			s.pos++
			continue
		}
		start := s.pos
		element()
		if s.pos == start {
			return
		}
	}
}
