package pki

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// atOnce is how many things an issuer is asked for at once. With Vault nearly
// all of the time is spent waiting for its answers; with more than a few the
// hosts of a fleet that is set up anew would crowd it.
const atOnce = 4

// atWork is how many changes are under way at once. Those that are not asking
// wait for the disk, which serves several syncs at once about as fast as one.
const atWork = 16

// gently asks an issuer for at most atOnce things at once.
type gently struct {
	Issuer
	slots chan struct{}
}

func askGently(issuer Issuer) Issuer { return gently{issuer, make(chan struct{}, atOnce)} }

// slot waits for one and returns what gives it back.
func (g gently) slot(ctx context.Context) (func(), error) {
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Sign implements Issuer.
func (g gently) Sign(ctx context.Context, r Request, csr []byte) ([]byte, error) {
	done, err := g.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return g.Issuer.Sign(ctx, r, csr)
}

// Bundle implements Issuer.
func (g gently) Bundle(ctx context.Context, ca string) ([]byte, error) {
	done, err := g.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return g.Issuer.Bundle(ctx, ca)
}

// Secret implements Issuer.
func (g gently) Secret(ctx context.Context, name string, fresh func() ([]byte, error)) ([]byte, error) {
	done, err := g.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return g.Issuer.Secret(ctx, name, fresh)
}

// each carries out changes as plan.Each does, but for neighbours that ask the
// issuer for things that need not wait for each other: up to atWork of those are
// under way together. A group begins when all changes before it have ended, so that what
// a change builds on is there: bundles before certificates, both before what is
// deleted. The reporter hears of one change at a time, in the order in which
// they begin and end; errors are joined in the order of the changes, those of
// changes that wait at last. When ctx is done no further change begins.
func each(ctx context.Context, changes []plan.Change, rep plan.Reporter, do func(context.Context, plan.Change) error) error {
	e := &eachRun{rep: rep, do: do, failed: make([]error, len(changes))}
	keys := make([]string, len(changes))
	for i, c := range changes {
		keys[i] = c.Key
	}
	for begin := 0; begin < len(changes) && ctx.Err() == nil; {
		end := begin + 1
		for end < len(changes) && sideBySide(changes[begin], changes[end]) {
			end++
		}
		e.group(ctx, changes[begin:end], e.failed[begin:end])
		begin = end
	}
	return errors.Join(joinHeld(keys, e.failed), ctx.Err())
}

// sideBySide tells whether two neighbours in a plan may be under way together:
// bundles, and then what needs the issuer and no other change of their kinds.
func sideBySide(a, b plan.Change) bool {
	kind := groupOf(a)
	return kind != alone && kind == groupOf(b)
}

// The groups of changes that may be under way together.
const (
	alone = iota
	needsNoLogin
	needsLogin
)

func groupOf(c plan.Change) int {
	switch c.Payload.(type) {
	case trustOp:
		return needsNoLogin
	case keyOp, issueOp:
		return needsLogin
	}
	return alone
}

type eachRun struct {
	rep    plan.Reporter
	report sync.Mutex // guards rep
	do     func(context.Context, plan.Change) error
	failed []error // by change; each is written by who carries that out
}

// group carries out changes, up to atWork together, and waits for all of them.
func (e *eachRun) group(ctx context.Context, changes []plan.Change, failed []error) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, atWork)
	for i, c := range changes {
		slots <- struct{}{}
		if ctx.Err() != nil {
			return
		}
		running.Go(func() {
			defer func() { <-slots }()
			failed[i] = e.one(ctx, c)
		})
	}
}

func (e *eachRun) one(ctx context.Context, c plan.Change) error {
	e.tell(func() { e.rep.Begin(c) })
	err := e.do(ctx, c)
	e.tell(func() { e.rep.End(c, err) })
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Action, c.Key, err)
	}
	return nil
}

func (e *eachRun) tell(report func()) {
	e.report.Lock()
	defer e.report.Unlock()
	report()
}
