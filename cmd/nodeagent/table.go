package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// screen is where results are printed for people. On a terminal it has colours
// and aligned tables; elsewhere rows are their cells with one tab between them,
// which cut and awk read as they are.
type screen struct {
	w     io.Writer
	table bool
	color bool
}

func newScreen(w io.Writer) screen {
	return screen{w: w, table: terminal(w), color: colored(w)}
}

func (s screen) good(text string) string { return s.paint("32", text) }
func (s screen) bad(text string) string  { return s.paint("31", text) }
func (s screen) head(text string) string { return s.paint("1", text) }

func (s screen) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// verdict is yes in green or no in red.
func (s screen) verdict(good bool, yes, no string) string {
	if good {
		return s.good(yes)
	}
	return s.bad(no)
}

// rows prints cells in columns. Only the last cell of a row may have colours:
// tabwriter counts their bytes.
func (s screen) rows(rows [][]string) error {
	if !s.table {
		for _, row := range rows {
			if _, err := fmt.Fprintln(s.w, strings.Join(row, "\t")); err != nil {
				return err
			}
		}
		return nil
	}
	t := tabwriter.NewWriter(s.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(t, "  %s\n", strings.Join(row, "\t"))
	}
	return t.Flush()
}

// section prints a title and rows below it; elsewhere than on a terminal each
// row begins with the title instead, so that grep finds it.
func (s screen) section(title string, rows [][]string) error {
	if !s.table {
		for i, row := range rows {
			rows[i] = append([]string{title}, row...)
		}
		return s.rows(rows)
	}
	fmt.Fprintf(s.w, "\n%s\n", s.head(strings.ToUpper(title)))
	return s.rows(rows)
}
