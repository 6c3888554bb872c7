package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// maxRounds bounds how often one Converge plans and applies. Two rounds are
// the rule: one that changes, one that finds nothing. A third gives a domain
// whose input appeared only in the second round its turn.
const maxRounds = 3

// Outcome is what became of one domain.
type Outcome struct {
	Domain string
	// Applied counts the changes that were carried out without an error.
	Applied int
	// Remaining are the changes that a fresh look still finds.
	Remaining []plan.Change
	// Err is why the domain did not converge, nil when nothing failed.
	Err error
}

// Converged tells whether a fresh look found nothing to do and nothing failed.
func (o Outcome) Converged() bool { return o.Err == nil && len(o.Remaining) == 0 }

// Result is what became of all domains, in their order.
type Result []Outcome

// Applied counts the changes that were carried out.
func (r Result) Applied() int {
	n := 0
	for _, o := range r {
		n += o.Applied
	}
	return n
}

// Failed names the domains that did not converge.
func (r Result) Failed() []string {
	var failed []string
	for _, o := range r {
		if !o.Converged() {
			failed = append(failed, o.Domain)
		}
	}
	return failed
}

// Err is nil when every domain converged; otherwise it names each one that did
// not and what is left of it.
func (r Result) Err() error {
	var failed []error
	for _, o := range r {
		if o.Err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", o.Domain, o.Err))
			continue
		}
		for _, c := range o.Remaining {
			failed = append(failed, fmt.Errorf("%s: %s %s is still to be done after it was applied: %s",
				o.Domain, c.Action, c.Key, c.Reason))
		}
	}
	return errors.Join(failed...)
}

// Converge plans and applies the domains in order, round after round, until a
// fresh round finds nothing to do. A domain whose Apply failed is not tried
// again here, the others go on: independent domains fail independently.
func Converge(ctx context.Context, domains []Domain, rep plan.Reporter) Result {
	turns := make([]turn, len(domains))
	for range maxRounds {
		changed := false
		for i, d := range domains {
			changed = turns[i].take(ctx, d, rep) || changed
		}
		if !changed {
			return results(domains, turns)
		}
	}
	for i, d := range domains {
		turns[i].look(ctx, d)
	}
	return results(domains, turns)
}

// turn follows one domain through the rounds.
type turn struct {
	applied   int
	remaining []plan.Change
	planErr   error
	applyErr  error
}

// look plans the domain afresh.
func (t *turn) look(ctx context.Context, d Domain) {
	t.remaining, t.planErr = d.Plan(ctx)
}

// take plans the domain and applies what is found; it tells whether anything
// was attempted.
func (t *turn) take(ctx context.Context, d Domain, rep plan.Reporter) bool {
	t.look(ctx, d)
	var blind BlindError
	if len(t.remaining) == 0 || t.applyErr != nil || errors.As(t.planErr, &blind) || ctx.Err() != nil {
		return false
	}
	counter := &counter{Reporter: rep}
	t.applyErr = d.Apply(ctx, t.remaining, counter)
	t.applied += counter.done
	return true
}

func results(domains []Domain, turns []turn) Result {
	r := make(Result, len(domains))
	for i, d := range domains {
		t := turns[i]
		r[i] = Outcome{Domain: d.Name(), Applied: t.applied, Remaining: t.remaining, Err: errors.Join(t.applyErr, t.planErr)}
	}
	return r
}

// counter counts the changes that succeeded on their way to a Reporter.
type counter struct {
	plan.Reporter
	done int
}

func (c *counter) End(change plan.Change, err error) {
	if err == nil {
		c.done++
	}
	c.Reporter.End(change, err)
}
