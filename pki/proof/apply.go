package proof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// Applier makes components use what lies on disk, or puts back what they took
// before.
type Applier struct {
	Root layout.Root
	// Restart restarts a component's unit and returns when it is ready.
	Restart func(ctx context.Context, component string) error
	// PutBack takes the pair before the one in use into use again; see
	// [pki.Applier.PutBack].
	PutBack func(ctx context.Context, certificate, reason string) error
	// SelfReload is for how long a component may take to see a new pair by
	// itself, Settle for how long it may take after a restart until it answers,
	// and a server until it knows a client; 0 stands for the constants.
	SelfReload, Settle time.Duration
}

// Apply carries out changes of Diff: it gives a component time to see the new
// pair by itself, restarts it where it does not, and where even that does not
// help, puts the old pair back while it is valid. That is an error: somebody
// must know of it.
func (a *Applier) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	return plan.Each(ctx, changes, rep, func(ctx context.Context, c plan.Change) error {
		j, ok := c.Payload.(job)
		if !ok {
			return fmt.Errorf("change of domain %q was not made by Diff of package proof", c.Domain)
		}
		if j.want.Client {
			return a.client(ctx, j.want)
		}
		return a.server(ctx, j.want)
	})
}

// job is the Payload of every change of this package.
type job struct{ want Check }

func (a *Applier) server(ctx context.Context, want Check) error {
	if _, err := a.until(ctx, want, cmp.Or(a.SelfReload, SelfReload)); err == nil {
		return nil
	}
	restartErr := a.Restart(ctx, want.Component)
	have, err := a.until(ctx, want, cmp.Or(a.Settle, patience))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := errors.Join(restartErr, err)
	if restartErr == nil && have.Serial != "" && have.Serial != newLook(a.Root).onDisk(want).Serial {
		// It runs, and with another pair than the one on disk: no matter which
		// pair lies there, this component does not read it.
		return fmt.Errorf("%s was restarted and still does not serve its certificate: look at the flags of its unit: %w", want.Component, why)
	}
	return a.retreat(ctx, want, why)
}

// client: the pair is new to the server, or the server has changed. The pair
// before is put back only where the server takes that one.
func (a *Applier) client(ctx context.Context, want Check) error {
	have, err := a.until(ctx, want, cmp.Or(a.Settle, patience))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || have.Down {
		return errors.Join(ctx.Err(), err)
	}
	if !a.takesPrevious(ctx, want) {
		return fmt.Errorf("%w; and no earlier pair that it takes is left: look at what it trusts (nodeagent status on its host)", err)
	}
	if err := a.PutBack(ctx, want.Certificate, fmt.Sprintf("%s at %s: %s", want.Component, want.Address, have.Problem)); err != nil {
		return errors.Join(err, fmt.Errorf("%s refuses %s: %s", want.Component, want.Certificate, have.Problem))
	}
	return fmt.Errorf("%s refuses the new pair: %s; the one before is in use again", want.Component, have.Problem)
}

// takesPrevious tells whether the server takes the pair before the one in use.
func (a *Applier) takesPrevious(ctx context.Context, want Check) bool {
	previous, err := pki.Previous(a.Root, want.Certificate)
	if err != nil {
		return false
	}
	answer, _ := newLook(a.Root).askWith(ctx, want, previous)
	return answer.Problem == ""
}

func (a *Applier) retreat(ctx context.Context, want Check, why error) error {
	if !want.PutBack {
		return fmt.Errorf("%s does not work with its new certificate, and none before it is valid: %w", want.Component, why)
	}
	if err := a.PutBack(ctx, want.Certificate, fmt.Sprintf("%s: %v", want.Component, why)); err != nil {
		return errors.Join(err, why)
	}
	if err := a.Restart(ctx, want.Component); err != nil {
		return fmt.Errorf("%s does not work with its new certificate (%w), nor with the one before, which is in use again: %w", want.Component, why, err)
	}
	return fmt.Errorf("%s refuses its new certificate, the one before is in use again: %w", want.Component, why)
}

// until asks until the check is satisfied or the time has passed, and returns
// the last answer. Whatever pair lies on disk at that moment is the one to prove:
// it may have been renewed since it was wanted.
func (a *Applier) until(ctx context.Context, want Check, limit time.Duration) (Check, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		l := newLook(a.Root)
		want = l.onDisk(want)
		have := l.ask(context.WithoutCancel(ctx), want)
		if have.proves(want) {
			return have, nil
		}
		select {
		case <-ctx.Done():
			return have, have.why(want)
		case <-tick.C:
		}
	}
}

// onDisk is the check for the pair that lies on disk now.
func (l *look) onDisk(want Check) Check {
	if pair, err := l.pair(want.Certificate); err == nil {
		want.Serial = pair.Leaf.SerialNumber.Text(16)
	}
	return want
}

// why says what is wrong with an answer.
func (c Check) why(want Check) error {
	switch {
	case c.Down:
		return fmt.Errorf("nothing answers at %s", c.Address)
	case c.Problem != "":
		return errors.New(c.Problem)
	}
	return fmt.Errorf("%s serves serial %s, not %s", c.Address, c.Serial, want.Serial)
}
