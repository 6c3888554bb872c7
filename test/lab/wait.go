package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is how often Until looks. A condition here costs a few
// milliseconds at most.
const pollEvery = 100 * time.Millisecond

// Until calls check until it returns nil, and gives up with the context's end
// or a Permanent error. The error says what was waited for, how long, and what
// check said last. Every wait of the lab and its tests goes through it: they
// wait for what they need, never for a time to pass.
func Until(ctx context.Context, what string, check func(context.Context) error) error {
	start := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		// Once the time is up a check only says that it is.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if permanent := (*permanentError)(nil); errors.As(err, &permanent) {
			return fmt.Errorf("wait for %s: %w", what, permanent.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w after %s; last: %w", what, context.Cause(ctx), time.Since(start).Round(time.Millisecond), last)
		case <-tick.C:
		}
	}
}

// Within is Until with a time limit of its own.
func Within(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Until(ctx, what, check)
}

// Permanent marks an error of a check that waiting longer cannot mend.
func Permanent(err error) error { return &permanentError{err} }

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }
