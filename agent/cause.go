package agent

import (
	"context"
	"time"
)

// Cause is why domains were looked at: whoever reads of drift in the log wants to
// know how it was noticed, and how soon.
type Cause struct {
	Kind CauseKind
	// Source is who noticed, of an event: "the network", "systemd".
	Source string
	// At is when that was: when the first of several events came, or when the
	// look was due.
	At time.Time
}

// CauseKind is a word of the log.
type CauseKind string

// The kinds of causes.
const (
	CauseStart CauseKind = "start"
	// CauseEvent: something announced itself.
	CauseEvent CauseKind = "event"
	// CausePoll is the look at what nothing announces, CauseResync the seldom one
	// at everything.
	CausePoll   CauseKind = "poll"
	CauseResync CauseKind = "resync"
	// CauseRetry: the last look left something to be done.
	CauseRetry CauseKind = "retry"
	// CauseRenewal: a certificate is to be renewed.
	CauseRenewal CauseKind = "renewal"
)

// String is the cause as the log has it: "poll", "event: the network".
func (c Cause) String() string {
	if c.Source == "" {
		return string(c.Kind)
	}
	return string(c.Kind) + ": " + c.Source
}

type causeKey struct{}

// withCause makes the cause known to all that is logged of the look.
func withCause(ctx context.Context, c Cause) context.Context {
	return context.WithValue(ctx, causeKey{}, c)
}

func causeOf(ctx context.Context) Cause {
	c, _ := ctx.Value(causeKey{}).(Cause)
	return c
}
