package docs

import (
	"fmt"
	"strings"
)

// markdown writes Markdown, of the kinds that this repository's documents have:
// headings, paragraphs, lists, tables and code. It refuses others, so that
// nothing gets into a page as it should not.
func (p *page) markdown(text string) error {
	blocks := splitBlocks(text)
	for _, b := range blocks {
		switch {
		case strings.HasPrefix(b, "<!--"), strings.HasPrefix(b, "# "): // the page has its own title
		case strings.HasPrefix(b, "## "):
			p.section(strings.TrimPrefix(b, "## "))
		case strings.HasPrefix(b, "### "):
			p.line(`.SS "%s"`, escape(strings.TrimPrefix(b, "### ")))
		case strings.HasPrefix(b, "```"):
			_, code, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(b), "```"), "\n")
			p.example(code)
		case strings.HasPrefix(b, "    "):
			p.example(dedent(b))
		case strings.HasPrefix(b, "  "): // goes on within a list
			p.line(".IP \"\" 2\n%s", roffText(oneLine(b)))
		case strings.HasPrefix(b, "|"):
			p.rows(b)
		case strings.HasPrefix(b, "- "):
			p.list(b)
		case strings.HasPrefix(b, "."): // what is roff already: see keyList
			p.line("%s", b)
		case strings.HasPrefix(b, "#"), strings.HasPrefix(b, "<"), strings.HasPrefix(b, ">"), strings.HasPrefix(b, "* "), strings.HasPrefix(b, "1."):
			return fmt.Errorf("make a manual page of %.60q: this kind of Markdown is not known to internal/docs", b)
		default:
			p.line(".PP\n%s", roffText(b))
		}
	}
	return nil
}

// splitBlocks cuts Markdown at blank lines, those within code left out, and
// before lists and headings.
func splitBlocks(text string) []string {
	var blocks []string
	var block []string
	end := func() {
		if len(block) > 0 {
			blocks = append(blocks, strings.Join(block, "\n"))
		}
		block = nil
	}
	fenced := false
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "```") {
			if !fenced {
				end()
			}
			block = append(block, line)
			if fenced {
				end()
			}
			fenced = !fenced
			continue
		}
		switch {
		case fenced:
		case strings.TrimSpace(line) == "":
			end()
			continue
		case strings.HasPrefix(line, "- ") && len(block) > 0 && !strings.HasPrefix(block[0], "- "):
			end()
		}
		block = append(block, line)
	}
	end()
	return blocks
}

// list has one item for each line that begins with a dash; the others go on.
func (p *page) list(block string) {
	for item := range strings.SplitSeq("\n"+block, "\n- ") {
		if item = strings.TrimSpace(item); item != "" {
			p.line(".IP \\(bu 2\n%s", roffText(oneLine(item)))
		}
	}
}

// rows prints a table: its first column above what the others say.
func (p *page) rows(block string) {
	for i, row := range strings.Split(block, "\n") {
		if i < 2 { // header and rule
			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(row, `\|`, "\x00"), "|"), "|")
		var rest []string
		for _, cell := range cells[1:] {
			if cell = strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|")); cell != "" {
				rest = append(rest, cell)
			}
		}
		p.tagged(roffText(strings.TrimSpace(cells[0])), roffText(strings.Join(rest, ": ")))
	}
}

// dedent takes off the spaces that all lines begin with.
func dedent(text string) string {
	lines := strings.Split(text, "\n")
	least := len(text)
	for _, line := range lines {
		if strings.TrimSpace(line) != "" {
			least = min(least, len(line)-len(strings.TrimLeft(line, " ")))
		}
	}
	for i, line := range lines {
		lines[i] = line[min(least, len(line)):]
	}
	return strings.Join(lines, "\n")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
