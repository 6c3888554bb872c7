package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// batched is an op that is one message to the kernel. A run of them in a plan is
// sent at once.
type batched interface {
	op
	// request makes the message, nil where there is nothing to do any more.
	request(ctx context.Context, b *batch) (*message, error)
	// outcome says what the kernel's answer means.
	outcome(err error) error
}

// batchSize is how many messages are sent at once: enough for the system call
// not to count, few enough for a cancelled Apply to end soon and for the
// reporter to hear from time to time.
const batchSize = 256

// batch is what the messages of one batch are made with.
type batch struct {
	sys     *System
	links   map[string]int      // indexes, as far as asked for
	sources map[netip.Addr]bool // usable by now
}

// index returns the index of the link with the name.
func (b *batch) index(name string) (int, error) {
	if index, known := b.links[name]; known {
		return index, nil
	}
	link, err := b.sys.find(name)
	if err != nil {
		return 0, err
	}
	b.links[name] = link.Attrs().Index
	return b.links[name], nil
}

// waitForSource is System.waitForSource, once for each source.
func (b *batch) waitForSource(ctx context.Context, source netip.Addr) error {
	if b.sources[source] {
		return nil
	}
	err := b.sys.waitForSource(ctx, source)
	b.sources[source] = err == nil
	return err
}

// batchable returns how many changes at the beginning can be sent at once.
// Routes that are put go without others, for what follows may depend on whether
// the kernel took them ([System.applyRuns]).
func batchable(changes []plan.Change, limit int) int {
	routes := false
	for i, c := range changes[:min(limit, len(changes))] {
		_, ok := c.Payload.(batched)
		_, route := c.Payload.(putRoute)
		if !ok || i > 0 && route != routes {
			return i
		}
		routes = route
	}
	return min(limit, len(changes))
}

// applyBatch carries out ops with as few system calls as it takes, and returns
// the error of each. The kernel does them in order.
func (sys *System) applyBatch(ctx context.Context, ops []batched) []error {
	errs := make([]error, len(ops))
	b := &batch{sys: sys, links: map[string]int{}, sources: map[netip.Addr]bool{}}
	var messages []*message
	var at []int // the op of each message
	for i, o := range ops {
		m, err := o.request(ctx, b)
		if err != nil {
			errs[i] = err
		} else if m != nil {
			messages, at = append(messages, m), append(at, i)
		}
	}
	if len(messages) == 0 {
		return errs
	}
	answers := make([]error, len(messages))
	sys.wire.send(messages, answers)
	for j, answer := range answers {
		errs[at[j]] = ops[at[j]].outcome(answer)
		if errors.Is(answer, errLost) && len(messages) > 1 {
			// It may have been done. Every op may be applied twice.
			errs[at[j]] = ops[at[j]].apply(ctx, sys)
		}
	}
	return errs
}

// applyOne is apply of a batched op by itself.
func (sys *System) applyOne(ctx context.Context, o batched) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return sys.applyBatch(ctx, []batched{o})[0]
}

// applyRuns carries out the changes in order, as many at once as can be.
//
// The kernel looks for the way to a gateway by all rules and tables that are
// there: a rule for all packets into a table that swallows them, which a later
// change deletes, makes it refuse a route that is well by the wanted ones. Such
// routes are put again once the last rule and route is deleted, and new rules
// of that sort wait for them.
func (sys *System) applyRuns(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	var failed []error
	var waiting []plan.Change
	for last := lastRemoval(changes); len(changes) > 0; {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
		n := max(batchable(changes, sys.batchSize), 1)
		run := changes[:n]
		changes, last = changes[n:], last-n
		if len(waiting) > 0 {
			var rules []plan.Change
			run, rules = withoutWideRules(run)
			waiting = append(waiting, rules...)
		}
		refused, err := sys.applyRun(ctx, run, rep, last >= 0)
		waiting, failed = append(waiting, refused...), append(failed, err)
		if last < 0 && len(waiting) > 0 {
			failed = append(failed, sys.applyRuns(ctx, waiting, rep))
			waiting = nil
		}
	}
	return errors.Join(failed...)
}

// lastRemoval is the index of the last change that deletes a rule or a route,
// -1 where there is none.
func lastRemoval(changes []plan.Change) int {
	for i, c := range slices.Backward(changes) {
		switch c.Payload.(type) {
		case deleteRule, deleteRoute:
			return i
		}
	}
	return -1
}

// withoutWideRules takes out the rules that also the kernel's own search for a
// gateway would follow.
func withoutWideRules(run []plan.Change) (rest, wide []plan.Change) {
	for _, c := range run {
		if o, ok := c.Payload.(putRule); ok && o.rule.wide() {
			wide = append(wide, c)
		} else {
			rest = append(rest, c)
		}
	}
	return rest, wide
}

// applyRun carries out changes that can be sent at once, or a single one that
// cannot. Where they may wait it returns those that the kernel refused because
// of a gateway, of which rep has not heard.
func (sys *System) applyRun(ctx context.Context, run []plan.Change, rep plan.Reporter, mayWait bool) ([]plan.Change, error) {
	var ops []batched
	for _, c := range run {
		if o, ok := c.Payload.(batched); ok {
			ops = append(ops, o)
		}
	}
	// What is sent is reported even if ctx is done meanwhile.
	reporting := context.WithoutCancel(ctx)
	if len(ops) == 0 {
		return nil, plan.Each(reporting, run, rep, func(_ context.Context, c plan.Change) error {
			o, ok := c.Payload.(op)
			if !ok {
				return fmt.Errorf("apply change of payload %T: it was not made by netcfg.Diff", c.Payload)
			}
			return o.apply(ctx, sys)
		})
	}
	errs := sys.applyBatch(ctx, ops)
	var done, refused []plan.Change
	var outcomes []error
	for i, c := range run {
		if mayWait && refusesGateway(c, errs[i]) {
			refused = append(refused, c)
		} else {
			done, outcomes = append(done, c), append(outcomes, errs[i])
		}
	}
	return refused, plan.Each(reporting, done, rep, func(context.Context, plan.Change) error {
		err := outcomes[0]
		outcomes = outcomes[1:]
		return err
	})
}

// refusesGateway tells whether the error can mean that the kernel found no way
// to the gateway of a route, or one that leads elsewhere: EINVAL and EACCES are
// those of tables that swallow packets.
func refusesGateway(c plan.Change, err error) bool {
	o, ok := c.Payload.(putRoute)
	if !ok || err == nil || !o.route.gateway() {
		return false
	}
	for _, errno := range []unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EINVAL, unix.EACCES} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
