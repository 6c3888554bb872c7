package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// terminal tells whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colored tells whether to print colours to w: on terminals, unless NO_COLOR
// (no-color.org) is set.
func colored(w io.Writer) bool { return terminal(w) && os.Getenv("NO_COLOR") == "" }

// logger writes log lines for people and journald: level and text, no time,
// which the journal has.
func logger(w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("NODEAGENT_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// progress shows each change as it is carried out: a line when it is done,
// and on a terminal the one that is under way with the seconds it has taken.
// It prints to standard error when standard output carries JSON.
type progress struct {
	out    io.Writer
	asking *sync.Mutex
	style  plan.Style
	live   bool

	mu      sync.Mutex
	current []underWay // several units may start side by side
	done    chan struct{}
	stopped chan struct{}
}

// underWay is a change that has begun.
type underWay struct {
	name  string
	since time.Time
}

func newProgress(o *options) *progress {
	out := o.stdout
	if o.json() {
		out = o.stderr
	}
	p := &progress{
		out: out, asking: &o.asking, style: plan.Style{Color: colored(out)}, live: terminal(out),
		done: make(chan struct{}), stopped: make(chan struct{}),
	}
	if !p.live {
		close(p.stopped)
		return p
	}
	go p.tick()
	return p
}

// tick redraws the line under way each half second.
func (p *progress) tick() {
	defer close(p.stopped)
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// draw shows the change that has been under way for longest, and how many
// others are.
func (p *progress) draw() {
	if len(p.current) == 0 || !p.asking.TryLock() {
		return
	}
	defer p.asking.Unlock()
	first := p.current[0]
	line := fmt.Sprintf("  … %s (%.0fs)", first.name, time.Since(first.since).Seconds())
	if others := len(p.current) - 1; others > 0 {
		line += fmt.Sprintf(" and %d more", others)
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
}

// Begin implements plan.Reporter.
func (p *progress) Begin(c plan.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = append(p.current, underWay{c.String(), time.Now()})
}

// End implements plan.Reporter.
func (p *progress) End(c plan.Change, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := ""
	if i := slices.IndexFunc(p.current, func(u underWay) bool { return u.name == c.String() }); i >= 0 {
		if d := time.Since(p.current[i].since); d >= time.Second {
			took = fmt.Sprintf(" (%.1fs)", d.Seconds())
		}
		p.current = slices.Delete(p.current, i, i+1)
	}
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	if err != nil {
		fmt.Fprintf(p.out, "✗ %s: %s%s: %v\n", c.Domain, p.style.Line(c), took, err)
		return
	}
	fmt.Fprintf(p.out, "✓ %s: %s%s\n", c.Domain, p.style.Line(c), took)
}

// close ends the redrawing; nothing is printed afterwards.
func (p *progress) close() {
	close(p.done)
	<-p.stopped
}
