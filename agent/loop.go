package agent

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// settle is how long the loop gathers further events after the first one
// before it looks at the host: a change of a link announces itself several
// times, and one look answers them all.
const settle = 200 * time.Millisecond

// firstRetry and lastRetry bound the pause after a converge that failed; it
// doubles from one failure to the next.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 5 * time.Minute
)

// Due is a moment at which domains must be looked at although nothing
// happened: the next certificate to renew, the next poll of what the kernel
// does not announce.
type Due struct {
	At      time.Time
	Domains []string
	Why     CauseKind
}

// loop decides when to converge what. It owns all of its state; everything
// that happens reaches it as an Event.
type loop struct {
	log    *slog.Logger
	events *mailbox
	// converge converges the named domains (none: all) and returns the names of
	// those that did not converge.
	converge func(ctx context.Context, domains []string) (failed []string)
	// due returns the next moment at which a look is due; zero At: never.
	due func(now time.Time) Due
}

// run converges everything once and then whatever events and due moments call
// for, until ctx is done. Domains that failed are tried again with a growing
// pause, also when nothing else happens.
func (l *loop) run(ctx context.Context) {
	begin := withCause(ctx, Cause{Kind: CauseStart, At: time.Now()})
	owed := retry{}.after(time.Now(), nil, l.converge(begin, nil))
	for ctx.Err() == nil {
		next := earlier(l.due(time.Now()), owed.due())
		ev, happened := l.wait(ctx, next.At)
		if ctx.Err() != nil {
			return
		}
		cause := Cause{Kind: CauseEvent, Source: ev.Source, At: ev.At}
		if !happened {
			ev = Event{Domains: next.Domains}
			cause = Cause{Kind: next.Why, At: time.Now()}
		}
		l.log.Debug("looking at the host", "because", cause)
		owed = owed.after(time.Now(), ev.Domains, l.converge(withCause(ctx, cause), ev.Domains))
	}
}

// earlier returns the due moment that comes first; a zero moment never comes.
func earlier(a, b Due) Due {
	if a.At.IsZero() || !b.At.IsZero() && b.At.Before(a.At) {
		return b
	}
	return a
}

// retry is what failed and when it is tried again. The zero value owes nothing.
type retry struct {
	domains []string
	pause   time.Duration
	at      time.Time
}

func (r retry) due() Due { return Due{At: r.at, Domains: r.domains, Why: CauseRetry} }

// after returns what is owed once the domains looked at (none: all) were
// converged at the given moment and failed is what remains of them. The pause
// doubles when one that was owed failed again; a moment that is set does not
// move when other domains are looked at, so that events cannot put it off.
func (r retry) after(now time.Time, looked, failed []string) retry {
	all := len(looked) == 0
	again, rest := false, []string(nil)
	for _, name := range r.domains {
		switch {
		case slices.Contains(failed, name):
			again = true
		case !all && !slices.Contains(looked, name):
			rest = append(rest, name)
		}
	}
	owed := retry{domains: append(rest, failed...), pause: r.pause, at: r.at}
	switch {
	case len(owed.domains) == 0:
		return retry{}
	case again:
		owed.pause = min(2*r.pause, lastRetry)
		owed.at = now.Add(owed.pause)
	case r.at.IsZero():
		owed.pause = firstRetry
		owed.at = now.Add(owed.pause)
	}
	return owed
}

// wait returns the events that come before the given moment, as one, or false
// when the moment comes first. A zero moment never comes.
func (l *loop) wait(ctx context.Context, until time.Time) (Event, bool) {
	var moment <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		moment = timer.C
	}
	select {
	case <-ctx.Done():
		return Event{}, false
	case <-moment:
		return Event{}, false
	case <-l.events.filled:
		return l.gather(ctx)
	}
}

// gather takes what has happened once settle has passed.
func (l *loop) gather(ctx context.Context) (Event, bool) {
	sleepUntil(ctx, time.Now().Add(settle))
	return l.events.take()
}
