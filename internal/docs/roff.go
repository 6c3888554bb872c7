package docs

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Edition is what manual pages say of the program that they are of.
type Edition struct {
	Version string
	// Date is that of the source, so that the same source makes the same pages;
	// the zero value leaves it out.
	Date time.Time
}

// page is a manual page in the man macros (man(7), groff_man(7)).
type page struct{ strings.Builder }

func newPage(name, section, manual string, e Edition) *page {
	p := &page{}
	date := ""
	if !e.Date.IsZero() {
		date = e.Date.UTC().Format(time.DateOnly)
	}
	p.line(`.TH %s %s "%s" "%s" "%s"`, escape(strings.ToUpper(name)), section, escape(date), escape("nodeagent "+e.Version), escape(manual))
	// Names and commands are not to be hyphenated, sentences not to be set apart.
	p.line(".ad l\n.nh\n.nr HY 0\n.ss 12 0")
	return p
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *page) section(title string) { p.line(`.SH "%s"`, escape(strings.ToUpper(title))) }

// tagged is a term with what it means indented below it.
func (p *page) tagged(term, text string) {
	p.line(".TP\n%s\n%s", atStart(term), atStart(text))
}

// example is text that is printed as it is.
func (p *page) example(text string) {
	p.line(".PP\n.RS 4\n.EX\n%s\n.EE\n.RE", verbatim(text))
}

// verbatim is text whose lines stay as they are.
func verbatim(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, line := range lines {
		if line == "" {
			lines[i] = ".sp"
			continue
		}
		lines[i] = atStart(escape(line))
	}
	return strings.Join(lines, "\n")
}

// escape makes text of what groff would read otherwise. Every dash is one that
// can be copied and typed, as are quotes.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`).Replace(s)
}

// atStart keeps a line that begins with a dot from being taken for a macro.
func atStart(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") && !strings.HasPrefix(line, `\`) {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func bold(s string) string { return `\fB` + escape(s) + `\fR` }

// inline is Markdown within a line: code becomes bold, what is stressed italic,
// links their text with the file that they lead to, and escapes what they stand for.
var inline = regexp.MustCompile("`([^`]+)`" + `|\*([^*\s][^*]*)\*|\[([^]]+)\]\(([^)]+)\)|\\([<*_|\[])`)

// roffText makes roff of Markdown within a paragraph.
func roffText(text string) string {
	var b strings.Builder
	rest := 0
	for _, m := range inline.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(escape(text[rest:m[0]]))
		group := func(i int) string { return text[m[2*i]:m[2*i+1]] }
		switch {
		case m[2] >= 0:
			b.WriteString(bold(group(1)))
		case m[4] >= 0:
			b.WriteString(`\fI` + escape(group(2)) + `\fR`)
		case m[6] >= 0:
			b.WriteString(roffText(group(3)) + target(group(3), group(4)))
		default:
			b.WriteString(escape(group(5)))
		}
		rest = m[1]
	}
	b.WriteString(escape(text[rest:]))
	return atStart(b.String())
}

// target tells in print where a link leads, unless its text does.
func target(text, link string) string {
	file, _, _ := strings.Cut(link, "#")
	if file == "" || strings.Contains(text, strings.TrimPrefix(file, "../")) {
		return ""
	}
	return escape(" (" + file + ")")
}
