package agent

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Event says that something happened after which domains may have drifted.
type Event struct {
	// Source is who noticed, for the log: "systemd", "SIGHUP".
	Source string
	// Domains are the names of the domains to look at; none means all.
	Domains []string
	// At is when it came into the mailbox, the first where several were joined.
	At time.Time
}

// mailbox holds what happened since it was last emptied, joined into one
// event, so that nobody who notices something waits for a converge to end.
type mailbox struct {
	mu      sync.Mutex
	pending *Event
	// filled has one element while something is pending.
	filled chan struct{}
}

func newMailbox() *mailbox { return &mailbox{filled: make(chan struct{}, 1)} }

// put adds an event.
func (m *mailbox) put(ev Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ev.At = time.Now()
	if m.pending != nil {
		ev = join(*m.pending, ev)
	}
	m.pending = &ev
	select {
	case m.filled <- struct{}{}:
	default:
	}
}

// take empties the mailbox; it is false when nothing was in it.
func (m *mailbox) take() (Event, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.filled:
	default:
	}
	if m.pending == nil {
		return Event{}, false
	}
	ev := *m.pending
	m.pending = nil
	return ev, true
}

// join is both events as one.
func join(a, b Event) Event {
	if len(a.Domains) == 0 || len(b.Domains) == 0 {
		a.Domains = nil
	} else {
		for _, d := range b.Domains {
			if !slices.Contains(a.Domains, d) {
				a.Domains = append(slices.Clone(a.Domains), d)
			}
		}
	}
	if !slices.Contains(strings.Split(a.Source, ", "), b.Source) {
		a.Source += ", " + b.Source
	}
	return a
}
