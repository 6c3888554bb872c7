package pki

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Secrets are those that the API server keeps in etcd.
type Secrets interface {
	// Left counts those that are not encrypted with the key of the name that
	// values in etcd carry.
	Left(ctx context.Context, key string) (int, error)
	// Rewrite has each of them written anew, with the key that the API server
	// uses.
	Rewrite(ctx context.Context, key string) error
}

// KeyCoordinator leads the change of a secret's key through its steps, as
// Coordinator does for CAs.
type KeyCoordinator struct {
	Keys  KeyStore
	Store ChangeStore
	// Uses tells of every host that has the secret how far it has come.
	Uses func(ctx context.Context, name string) ([]Use, error)
	// Secrets are needed for the encryption key alone.
	Secrets Secrets
	// Follow makes hosts follow; nil where they do so by themselves.
	Follow func(ctx context.Context) error
	// Tell hears of each step before it is made, of the hosts that are waited for
	// whenever these are others than before, and of the number of Secrets left.
	Tell func(step KeyDo, c Change, late []Use, left int)
	// Poll is how often hosts that are waited for are looked at.
	Poll time.Duration
	// Overlap is for how long the old service account key verifies; zero for
	// what a change that goes on began with, or KeyOverlap.
	Overlap time.Duration
	// Now is time.Now where nil.
	Now func() time.Time
}

// longestWait bounds how long the clock is not looked at, which may be set.
const longestWait = 10 * time.Minute

// keyRun is one run of a coordinator.
type keyRun struct {
	*KeyCoordinator
	name   string
	change *Change
	left   int // Secrets left, -1 for not counted
	// before is left when Secrets were rewritten last, -1 for not yet.
	before int
}

// Run changes the key of a secret for another one, or goes on with a change
// that was interrupted; back turns it back. It returns when nothing is left to
// do.
func (c *KeyCoordinator) Run(ctx context.Context, name string, back bool) error {
	r := &keyRun{KeyCoordinator: c, name: name, left: -1, before: -1}
	if err := r.begin(ctx, back); err != nil {
		return err
	}
	told := ""
	for {
		step, late, err := r.next(ctx)
		if err != nil {
			return err
		}
		if now := fmt.Sprint(step, late, r.left); now != told {
			c.Tell(step, *r.change, late, r.left)
			told = now
		}
		if step == KeyDone {
			if err := c.Keys.ForgetKey(ctx, name); err != nil {
				return err
			}
			return c.Store.Remove(ctx, keyChange(name))
		}
		if err := r.do(ctx, step); err != nil {
			return err
		}
	}
}

func (c *KeyCoordinator) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// begin loads the change, or remembers a new one; see [Coordinator.begin].
func (r *keyRun) begin(ctx context.Context, back bool) error {
	change, err := r.Store.Load(ctx, keyChange(r.name))
	if err != nil {
		return err
	}
	parts, _, err := r.read(ctx)
	if err != nil {
		return err
	}
	if len(parts) > 2 {
		return fmt.Errorf("change key %q: it has %d keys, and a change knows two: remove those that nothing needs", r.name, len(parts))
	}
	if change == nil && back {
		return fmt.Errorf("turn back the change of key %q: none is under way", r.name)
	}
	if change == nil {
		change = &Change{CA: keyChange(r.name), Old: parts[0].id}
	}
	if change.Key == nil {
		change.Key = &KeyProgress{}
	}
	for _, p := range parts {
		if change.New == "" && p.id != change.Old {
			change.New = p.id
		}
	}
	if back && !slices.Contains(partIDs(parts), change.Old) {
		return fmt.Errorf("turn back the change of key %q: the old one is dropped already: change it once more for a new one", r.name)
	}
	if back && !change.Back {
		change.Back, change.Key.Since = true, time.Time{}
	}
	change.Key.Overlap = r.overlap(change.Key.Overlap)
	r.change = change
	return r.Store.Save(ctx, *change)
}

// overlap is what was asked for now, or when the change began.
func (c *KeyCoordinator) overlap(begun time.Duration) time.Duration {
	switch {
	case c.Overlap > 0:
		return c.Overlap
	case begun > 0:
		return begun
	}
	return KeyOverlap
}

// read takes the secret apart.
func (r *keyRun) read(ctx context.Context) ([]part, int, error) {
	content, version, err := r.Keys.ReadKey(ctx, r.name)
	if err != nil {
		return nil, 0, err
	}
	parts, err := parseParts(r.name, content)
	if err != nil {
		return nil, 0, fmt.Errorf("read key %q: it %w", r.name, err)
	}
	return parts, version, nil
}

func (r *keyRun) next(ctx context.Context) (KeyDo, []Use, error) {
	parts, _, err := r.read(ctx)
	if err != nil {
		return 0, nil, err
	}
	uses, err := r.Uses(ctx, r.name)
	if err != nil {
		return 0, nil, err
	}
	step, late := r.change.NextKey(r.name, partIDs(parts), uses, r.left, r.now())
	return step, late, nil
}

// do makes one step, or waits a while.
func (r *keyRun) do(ctx context.Context, step KeyDo) error {
	counted := r.left
	r.left = -1 // what was counted holds for the step alone
	switch step {
	case KeyAdd:
		return r.add(ctx)
	case KeySwitch:
		return r.turn(ctx)
	case KeyMark:
		r.change.Key.Since = r.now()
		return r.Store.Save(ctx, *r.change)
	case KeyWait:
		return pause(ctx, min(r.change.Key.Until().Sub(r.now()), longestWait))
	case KeyCount:
		return r.count(ctx)
	case KeyRewrite:
		return r.rewrite(ctx, counted)
	case KeyDrop:
		return r.write(ctx, func(parts []part) ([]part, error) { return dropped(parts, r.change.other()) })
	}
	if r.Follow != nil {
		if err := r.Follow(ctx); err != nil {
			return fmt.Errorf("follow the change of key %q: %w; mend that, then run the command again: it goes on from here", r.name, err)
		}
	}
	return pause(ctx, r.Poll)
}
