package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// pollInterval is how often that is looked at of which the kernel announces no
// changes, so that they are noticed within ten seconds, the look itself and what
// keeps it waiting included; see Host.polled.
const pollInterval = 9 * time.Second

// resync is how often a lane looks at all of its domains although nothing
// happened: for what nobody announces, such as a binding that was deleted in
// the API server.
const resync = 10 * time.Minute

// lane converges some of the domains, one after another, in a goroutine of its
// own. Lanes do not wait for each other: while the cluster's lane waits minutes
// for an etcd without quorum, the host's lane puts a deleted address back.
type lane struct {
	*daemon
	name    string
	domains []string
	box     *mailbox
	// busySince is when the converge that runs began, nil when none runs. With
	// the monotonic clock: the other one may be set meanwhile.
	busySince atomic.Pointer[time.Time]

	// The rest is owned by the lane's goroutine.
	polled time.Time // when the polled domains were last looked at
	whole  time.Time // when all of the lane's domains were
	// renewal is when the next certificate is due, as of the last look at the
	// pki domain.
	renewal Due
	// waiting and rejected are the reasons that were last logged for which the
	// lane waits, and for which it does not try the spec's network.
	waiting, rejected string
}

func newLane(d *daemon, name string, domains ...string) *lane {
	return &lane{daemon: d, name: name, domains: domains, box: newMailbox()}
}

// mine returns those of the named domains (none: all) that the lane has.
func (l *lane) mine(names []string) []string {
	if len(names) == 0 {
		return l.domains
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(l.domains, name) })
}

// post puts an event into the lane's mailbox if it concerns the lane.
func (l *lane) post(ev Event) {
	if len(ev.Domains) > 0 {
		ev.Domains = l.mine(ev.Domains)
		if len(ev.Domains) == 0 {
			return
		}
	}
	l.box.put(ev)
}

func (l *lane) stuck(now time.Time) bool {
	since := l.busySince.Load()
	return since != nil && now.Sub(*since) > stuckAfter
}

// run converges until ctx is done; once is closed after the first converge.
func (l *lane) run(ctx context.Context, once chan<- struct{}) {
	var first sync.Once
	converge := func(ctx context.Context, names []string) []string {
		defer first.Do(func() { close(once) })
		return l.converge(ctx, names)
	}
	(&loop{log: l.Log, events: l.box, converge: converge, due: l.due}).run(ctx)
}

// due is the earliest of the next poll, the next look at everything and the
// next certificate.
func (l *lane) due(now time.Time) Due {
	next := earlier(Due{At: cmp.Or(l.whole, now).Add(resync), Domains: l.domains, Why: CauseResync}, l.renewal)
	if polled := l.mine(l.host.polled()); len(polled) > 0 {
		next = earlier(next, Due{At: cmp.Or(l.polled, now).Add(pollInterval), Domains: polled, Why: CausePoll})
	}
	return next
}

// converge converges the named domains of the lane and those that build on
// them; none means all of the lane, with the fleet's files read again. It
// returns the names of the domains that did not converge.
func (l *lane) converge(ctx context.Context, names []string) []string {
	began := time.Now()
	l.busySince.Store(&began)
	defer l.busySince.Store(nil)
	if len(names) == 0 {
		// An invalid fleet is in the status line; what is in force is kept up.
		_ = l.reload()
	}
	names = l.mine(withDependents(names))
	if slices.Contains(names, DomainKernel) {
		l.polled = time.Now()
	}
	if len(names) == len(l.domains) {
		l.whole = time.Now()
	}
	names, owed := l.settled(names)
	if len(names) == 0 {
		return owed
	}
	lock, err := acquireQuietly(ctx, l.Root, names)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		l.Log.Error("not converged", "error", err)
		l.tell(l.name, err)
		return append(names, owed...)
	}
	defer lock.Release()
	way, end := givingWay(ctx, l.Root, names)
	defer end()
	result, err := l.carryOut(way, names)
	if ctx.Err() != nil {
		return nil
	}
	if result == nil {
		return names
	}
	l.host.figures.converged(result, time.Now())
	if why := context.Cause(way); why != nil && cmp.Or(result.Err(), err) != nil {
		l.Log.Info("not converged yet", "because", why)
		l.tell(l.name, why)
		return append(names, owed...)
	}
	l.report(causeOf(ctx), result, err)
	l.after(ctx, names, result)
	return append(result.Failed(), owed...)
}

// settled leaves out components while a change of the network is under way:
// they are owed until it is confirmed or undone.
func (l *lane) settled(names []string) (now, owed []string) {
	touches := func(name string) bool { return name == DomainUnits || name == DomainCluster }
	if !slices.ContainsFunc(names, touches) {
		return names, nil
	}
	reason := l.host.unsettled()
	if reason == "" {
		l.waiting = ""
		return names, nil
	}
	if l.waiting != reason {
		l.Log.Info("components wait", "because", reason)
	}
	l.waiting = reason
	for _, name := range names {
		if touches(name) {
			owed = append(owed, name)
		} else {
			now = append(now, name)
		}
	}
	return now, owed
}

// carryOut converges the domains. The result is nil where nothing was looked at.
func (l *lane) carryOut(ctx context.Context, names []string) (Result, error) {
	if !slices.Contains(names, DomainKernel) && !slices.Contains(names, DomainNetwork) {
		return l.host.Converge(ctx, names, changeLog(ctx, l.Log))
	}
	result, trial, err := l.host.keep(ctx, names, changeLog(ctx, l.Log))
	if ctx.Err() != nil {
		return nil, err
	}
	awaited := l.waiting != "" && result != nil // what was awaited has come
	if l.host.judgedNow() || trial != nil || awaited {
		for _, other := range l.lanes {
			if other != l {
				other.post(Event{Source: "the network", Domains: []string{DomainUnits, DomainCluster}})
			}
		}
	}
	l.reportTrial(trial)
	l.reportHeld()
	if result == nil && err != nil {
		if l.waiting != err.Error() {
			l.Log.Info("network not looked at", "because", err)
		}
		l.waiting = err.Error()
		l.tell(l.name, err)
		return nil, err
	}
	l.waiting = ""
	return result, err
}

// reportTrial logs what became of a change of the network that probes judged.
func (l *lane) reportTrial(trial *Trial) {
	if trial == nil {
		return
	}
	for _, v := range trial.Verdicts {
		l.Log.Info("probe", "found", v.String())
	}
}

// reportHeld logs, once, that the spec's network is not tried.
func (l *lane) reportHeld() {
	text := ""
	if s := l.host.confirmStatus(); s != nil && s.InForce {
		text = s.Reason
	}
	if text != l.rejected && text != "" {
		l.Log.Warn("the spec's network was undone and is not tried again until it changes; the last confirmed one is kept", "because", text)
	}
	l.rejected = text
}

// report logs what did not converge; a converge that found nothing to do is
// silent.
func (l *lane) report(cause Cause, result Result, markErr error) {
	err := cmp.Or(result.Err(), markErr)
	switch {
	case err != nil:
		l.Log.Error("not converged", "noticed", cause, "error", err)
	case result.Applied() > 0:
		l.Log.Info("converged", "changes", result.Applied(), "noticed", cause, "after", time.Since(cause.At).Round(time.Millisecond))
	}
	if err == nil && l.rejected != "" {
		err = fmt.Errorf("the last confirmed network is kept, the spec's was undone: %s", l.rejected)
	}
	if err != nil || result.Applied() > 0 || len(result) == len(l.domains) {
		l.tell(l.name, err)
	}
}

// after does what follows from a converge.
func (l *lane) after(ctx context.Context, names []string, result Result) {
	if slices.Contains(names, DomainPKI) {
		l.renewal = l.host.certificatesDue(ctx, slices.Contains(result.Failed(), DomainPKI))
	}
	if slices.Contains(names, DomainNetwork) {
		l.floating.follow(ctx, l.host)
		l.metrics.follow(ctx, l.host, l.Version)
	}
	if slices.Contains(names, DomainUnits) {
		if err := l.host.linkProgram(); err != nil {
			l.Log.Warn("an API server that starts answers others before it is ready", "because", err)
		}
		l.snapshots.follow(ctx, l.host, l.Version)
		l.copies.follow(ctx, l.host)
		l.drills.follow(ctx, l.host, l.Settings)
	}
	// What the look has taken is not needed while the host stays as it is. The
	// garbage of the polls, which is little, is left to the collector.
	giveBack := unmapProgram
	if result.Applied() > 0 || slices.Contains(names, DomainUnits) || len(names) == len(l.domains) {
		giveBack = release
	}
	if err := giveBack(); err != nil {
		l.Log.Warn("memory that is not needed is kept", "error", err)
	}
}
