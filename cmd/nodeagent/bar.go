package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// bar shows how far a long read or write has come, on a terminal only.
type bar struct {
	out   io.Writer
	verb  string
	live  bool
	since time.Time
	drawn time.Time
}

// newBar draws to standard error, so that standard output stays clean.
func newBar(o *options, verb string) *bar {
	return &bar{out: o.stderr, verb: verb, live: terminal(o.stderr), since: time.Now()}
}

// set shows done of total; it redraws at most ten times a second. The total
// may be 0 where it is not known.
func (b *bar) set(done, total int64) {
	if !b.live || time.Since(b.drawn) < 100*time.Millisecond && done < total {
		return
	}
	b.drawn = time.Now()
	const width = 30
	filled := 0
	if total > 0 {
		filled = int(min(done, total) * width / total)
	}
	rate := float64(done) / max(time.Since(b.since).Seconds(), 0.001)
	fmt.Fprintf(b.out, "\r\x1b[K%s [%s%s] %s of %s, %s/s", b.verb,
		strings.Repeat("█", filled), strings.Repeat("·", width-filled), bytes(done), bytes(total), bytes(int64(rate)))
}

// close takes the bar away.
func (b *bar) close() {
	if b.live && !b.drawn.IsZero() {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}
