package plan

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

// Style is how a plan prints as text.
type Style struct {
	// Color adds ANSI colours: for terminals only.
	Color bool
	// MaxLines is how many lines of a Before or After are shown; 0 shows all.
	MaxLines int
	// Nothing is what an empty plan means; empty: "the host is as its spec says".
	Nothing string
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	faint  = "2"
)

func (s Style) paint(code, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// sign is the mark in front of a change: "+" for what appears, "-" for what
// goes away, "~" for what becomes different.
func (a Action) sign() (mark, color string) {
	switch a {
	case ActionCreate, ActionLoad, ActionIssue, ActionStart, ActionEnable:
		return "+", green
	case ActionDelete, ActionStop, ActionDisable:
		return "-", red
	}
	return "~", yellow
}

// Line returns the change in one line: mark, action, key, effect and reason.
func (s Style) Line(c Change) string {
	mark, color := c.Action.sign()
	line := fmt.Sprintf("%s %s %s", s.paint(color, mark), c.Action, s.paint(bold, c.Key))
	line += s.paint(effectColor(c.Effect), fmt.Sprintf("  [%s]", c.Effect))
	if c.Reason != "" {
		line += s.paint(faint, "  "+c.Reason)
	}
	return line
}

func effectColor(e Effect) string {
	switch e {
	case Quiet:
		return faint
	case Reload, Restart:
		return yellow
	}
	return red
}

// Write prints the plan for people: the changes grouped by domain in the order
// in which they will be applied, each with its before and after, and a closing
// line that counts them; warnings stand below it.
func (s Style) Write(w io.Writer, p Plan) error {
	var b strings.Builder
	domains := 0
	for i, c := range p.Changes {
		if i == 0 || c.Domain != p.Changes[i-1].Domain {
			if i > 0 {
				b.WriteByte('\n')
			}
			domains++
			b.WriteString(s.paint(bold, c.Domain) + "\n")
		}
		b.WriteString("  " + s.Line(c) + "\n")
		s.values(&b, c)
	}
	if p.Empty() {
		fmt.Fprintf(&b, "Nothing to do: %s.\n", cmp.Or(s.Nothing, "the host is as its spec says"))
	} else {
		fmt.Fprintf(&b, "\n%s in %s; strongest effect: %s.\n",
			Count(len(p.Changes), "change"), Count(domains, "domain"), p.Effect())
	}
	for _, warning := range p.Warnings {
		b.WriteString(s.paint(yellow, "warning: ") + warning + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// values prints before and after: on one line where both are short, as "-" and
// "+" lines otherwise.
func (s Style) values(b *strings.Builder, c Change) {
	before, after := strings.TrimRight(c.Before, "\n"), strings.TrimRight(c.After, "\n")
	if before == "" && after == "" {
		return
	}
	if !strings.Contains(before+after, "\n") && len(before)+len(after) < 70 {
		fmt.Fprintf(b, "      %s → %s\n",
			s.paint(red, cmp.Or(before, "(none)")), s.paint(green, cmp.Or(after, "(none)")))
		return
	}
	s.block(b, "-", red, before)
	s.block(b, "+", green, after)
}

func (s Style) block(b *strings.Builder, mark, color, text string) {
	if text == "" {
		return
	}
	lines := strings.Split(text, "\n")
	hidden := 0
	if s.MaxLines > 0 && len(lines) > s.MaxLines {
		hidden = len(lines) - s.MaxLines
		lines = lines[:s.MaxLines]
	}
	for _, line := range lines {
		b.WriteString("      " + s.paint(color, strings.TrimRight(mark+" "+line, " ")) + "\n")
	}
	if hidden > 0 {
		b.WriteString("      " + s.paint(faint, fmt.Sprintf("%s … and %s more (--full shows all)", mark, Count(hidden, "line"))) + "\n")
	}
}

// Count returns "1 change" or "3 changes".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
