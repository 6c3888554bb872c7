package pki

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// atOnce is how many things an issuer is asked for at once. With Vault nearly
// all of the time is spent waiting for its answers; with more than a few the
// hosts of a fleet that is set up anew would crowd it.
const atOnce = 4

// each carries out changes as plan.Each does, but for neighbours that ask the
// issuer for the same kind of thing: up to atOnce of those are under way
// together. A group begins when all changes before it have ended, so that what
// a change builds on is there: bundles before certificates, both before what is
// deleted. The reporter hears of one change at a time, in the order in which
// they begin and end; errors are joined in the order of the changes. When ctx is
// done no further change begins.
func each(ctx context.Context, changes []plan.Change, rep plan.Reporter, do func(context.Context, plan.Change) error) error {
	e := &eachRun{rep: rep, do: do, failed: make([]error, len(changes))}
	for begin := 0; begin < len(changes) && ctx.Err() == nil; {
		end := begin + 1
		for end < len(changes) && sideBySide(changes[begin], changes[end]) {
			end++
		}
		e.group(ctx, changes[begin:end], e.failed[begin:end])
		begin = end
	}
	return errors.Join(append(e.failed, ctx.Err())...)
}

// sideBySide tells whether two neighbours in a plan may be under way together.
func sideBySide(a, b plan.Change) bool {
	switch a.Payload.(type) {
	case trustOp, keyOp, issueOp:
		return reflect.TypeOf(a.Payload) == reflect.TypeOf(b.Payload)
	}
	return false
}

type eachRun struct {
	rep    plan.Reporter
	report sync.Mutex // guards rep
	do     func(context.Context, plan.Change) error
	failed []error // by change; each is written by who carries that out
}

// group carries out changes, up to atOnce together, and waits for all of them.
func (e *eachRun) group(ctx context.Context, changes []plan.Change, failed []error) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, atOnce)
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
