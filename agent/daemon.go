package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// lockPatience is how long the daemon waits for an apply or a restore.
const lockPatience = 15 * time.Minute

// Settings is what the daemon runs with.
type Settings struct {
	Root    layout.Root
	Fleet   hosts.Source
	Host    string // this host's name in it
	Version string // for the log
	// Program is nodeagent's own file, of which `run` starts what must not be done
	// in its process; the one that runs by default.
	Program string
	Log     *slog.Logger
}

// issuerPatience is for how long components wait at the agent's start for
// certificates that are due.
const issuerPatience = 20 * time.Second

// gcPercent is how much the daemon's heap may grow before it is collected, in
// percent of what is in use.
const gcPercent = 50

// Run is `nodeagent run`: it keeps the host converged until ctx is done. An
// error means that it could not start: the fleet is not valid and never was, or
// what it must watch cannot be watched.
func Run(ctx context.Context, s Settings) error {
	// The daemon is idle nearly always: memory counts for more than the CPU of
	// a collection now and then.
	debug.SetGCPercent(gcPercent)
	d := &daemon{Settings: s, manager: manager{log: s.Log}, events: make(chan Event)}
	d.lanes = []*lane{
		newLane(d, "host", DomainKernel, DomainHostNames, DomainNetwork),
		newLane(d, "certificates", DomainPKI),
		newLane(d, "cluster", DomainUnits, DomainCluster),
		newLane(d, "proof", DomainProof),
	}
	lock, err := AcquireDaemon(ctx, s.Root)
	if err != nil {
		return err
	}
	defer lock.Release()
	spec, err := d.firstSpec()
	if err != nil {
		return err
	}
	if d.host, err = Open(ctx, s.Root, spec, s.Log); err != nil {
		return err
	}
	defer d.host.Close()
	d.host.heed = true
	d.host.figures.fleet(d.invalid != "")
	if err := d.watch(ctx); err != nil {
		return err
	}
	d.host.keepLogin(ctx)
	go d.host.followIssuer(ctx, s.Log)
	s.Log.Info("nodeagent runs", "host", spec.Name, "spec", spec.Digest, "fleet", spec.Fleet, "version", s.Version)
	go d.manager.watchdog(ctx, d.stuck)
	go d.dispatch(ctx)
	d.endAttempt(ctx)
	d.runLanes(ctx)
	d.manager.stopping()
	d.snapshots.stop()
	d.copies.stop()
	d.drills.stop()
	d.floating.stop()
	d.metrics.stop()
	return nil
}

// daemon keeps one host converged. Its lanes each have a goroutine; what they
// share is guarded by mu or never changes.
type daemon struct {
	Settings
	manager manager
	host    *Host
	events  chan Event // what watchers notice, on its way to the lanes
	lanes   []*lane
	// snapshots and drills are owned by the lane that has the units.
	snapshots snapshotter
	// copies is the same lane's.
	copies copier
	drills drills
	// floating and metrics are owned by the lane that has the network.
	floating floating
	metrics  metricsServer

	mu       sync.Mutex
	invalid  string            // the last error of reading the fleet
	warned   []string          // what the fleet read last warns of
	verdicts map[string]string // by lane: why it is not converged, "" when it is
}

// runLanes runs the lanes until ctx is done. The first one, which makes the
// network and the firewall, has converged once before systemd hears that the
// service is ready (components wait for that at boot, by way of
// network-online.target) and before the others begin. Readiness must not wait
// for them: starting a component waits for it.
//
// The components begin after the certificates' first converge, which has
// nothing to do on most boots, but do not wait for an issuer for long: with the
// pairs on disk the host lives.
func (d *daemon) runLanes(ctx context.Context) {
	var running sync.WaitGroup
	for i, l := range d.lanes {
		once := make(chan struct{})
		running.Go(func() { l.run(ctx, once) })
		switch i {
		case 0:
			<-once
			d.host.fenceEtcd(ctx)
			d.manager.ready()
			d.endRestore(ctx)
		case 1:
			select {
			case <-once:
			case <-ctx.Done():
			case <-time.After(issuerPatience):
			}
		}
	}
	running.Wait()
}

// dispatch hands events to the lanes that have their domains.
func (d *daemon) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-d.events:
			for _, l := range d.lanes {
				l.post(ev)
			}
		}
	}
}

// stuck tells whether a lane has been converging for longer than any converge
// takes.
func (d *daemon) stuck(now time.Time) bool {
	return slices.ContainsFunc(d.lanes, func(l *lane) bool { return l.stuck(now) })
}

// firstSpec is the spec to begin with: that of the fleet's files, or where they
// are not valid that of the last fleet that was.
func (d *daemon) firstSpec() (*hosts.Spec, error) {
	spec, err := d.load()
	if err == nil {
		return spec, nil
	}
	kept, keptErr := keptSpec(d.Root, d.Fleet, d.Host)
	if keptErr != nil {
		return nil, err
	}
	_ = d.refuse(kept, err) // reported, and in the status line
	return kept, nil
}

// load reads the fleet, picks this host and keeps a copy of what is valid.
func (d *daemon) load() (*hosts.Spec, error) {
	fleet, err := d.Fleet.Load()
	if err != nil {
		return nil, err
	}
	spec, err := fleet.Host(d.Host)
	if err != nil {
		return nil, err
	}
	d.warn(fleet)
	if err := keepFleet(d.Root, d.Fleet, spec.Digest); err != nil {
		d.Log.Warn("no copy of the fleet is kept: should its files become invalid, the next start fails", "error", err)
	}
	return spec, nil
}

// warn logs the fleet's warnings that it did not have when it was read last.
func (d *daemon) warn(fleet *hosts.Fleet) {
	var now []string
	for _, w := range fleet.Warnings {
		text := w.String()
		if now = append(now, text); !slices.Contains(d.warned, text) {
			d.Log.Warn(text)
		}
	}
	d.warned = now
}

// refuse reports, once, files that are not used; the spec stays in force.
func (d *daemon) refuse(spec *hosts.Spec, problem error) error {
	err := fmt.Errorf("the fleet's files are not used, the spec %s stays in force: %w", spec.Digest, problem)
	if d.invalid != err.Error() {
		d.Log.Error("the fleet is not valid", "error", err)
	}
	d.invalid = err.Error()
	return err
}

// watch arms every source of events.
func (d *daemon) watch(ctx context.Context) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangups)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			d.host.lookNow()
			send(ctx, d.events, Event{Source: "SIGHUP"})
		}
	}()
	if dirs := d.Fleet.Folders(); len(dirs) > 0 {
		watchTrees(ctx, d.Log, d.events, Event{Source: "the fleet's files"}, dirs...)
	}
	return d.host.watch(ctx, d.events)
}

// reload takes the fleet's files as they are now. An invalid fleet is reported
// once, and the spec in force stays.
func (d *daemon) reload() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	spec, err := d.load()
	d.host.figures.fleet(err != nil)
	if err != nil {
		return d.refuse(d.host.Spec(), err)
	}
	d.invalid = ""
	if before := d.host.Spec(); spec.Digest != before.Digest || !spec.SamePrograms(before) {
		d.Log.Info("the spec changed", "from", before.Digest, "to", spec.Digest, "fleet", spec.Fleet)
		d.host.setSpec(spec)
	}
	return nil
}

// tell gives systemd the status line: converged, or why not.
func (d *daemon) tell(lane string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.verdicts == nil {
		d.verdicts = map[string]string{}
	}
	d.verdicts[lane] = ""
	if err != nil {
		d.verdicts[lane] = firstLine(err.Error())
	}
	line := statusLine(d.lanes, d.verdicts, d.invalid, time.Now())
	if line != "" {
		d.manager.status(line)
	}
}

// statusLine is what systemctl status shows; empty while a lane has not
// converged for the first time and nothing is wrong.
func statusLine(lanes []*lane, verdicts map[string]string, invalid string, now time.Time) string {
	var wrong []string
	waiting := false
	for _, l := range lanes {
		verdict, seen := verdicts[l.name]
		waiting = waiting || !seen
		if verdict != "" {
			wrong = append(wrong, verdict)
		}
	}
	if invalid != "" {
		wrong = append(wrong, firstLine(invalid))
	}
	switch {
	case len(wrong) > 0:
		return "not converged: " + strings.Join(wrong, "; ")
	case waiting:
		return ""
	}
	return "converged at " + now.Format(time.DateTime)
}

func firstLine(text string) string {
	first, _, more := strings.Cut(text, "\n")
	if more {
		first += " …"
	}
	return first
}

// endRestore completes or undoes a restore that a crash or a power cut
// interrupted, before anything starts etcd.
func (d *daemon) endRestore(ctx context.Context) {
	interrupted, err := etcdops.RestoreInProgress(d.Root)
	if err != nil || !interrupted {
		if err != nil {
			d.Log.Error("an interrupted restore cannot be looked at", "error", err)
		}
		return
	}
	lock, err := acquireQuietly(ctx, d.Root, []string{DomainUnits})
	if err != nil {
		d.Log.Error("an interrupted restore was not ended", "error", err)
		return
	}
	defer lock.Release()
	outcome, err := d.host.EndRestore(ctx, etcdops.EndSafely, etcdops.OpenOptions{}, func(e etcdops.Event) {
		if e.Text != "" {
			d.Log.Info("ending an interrupted restore", "step", e.Step, "doing", e.Text)
		}
	})
	if err != nil {
		d.Log.Error("an interrupted restore was not ended", "outcome", outcome, "error", err)
		return
	}
	d.Log.Info("ended an interrupted restore", "outcome", outcome)
}

// withDependents adds the domains that build on the named ones: certificates
// are inputs of units, and the API server is one of the units.
func withDependents(names []string) []string {
	if len(names) == 0 {
		return DomainNames()
	}
	wanted := func(name string) bool { return slices.Contains(names, name) }
	names = slices.Clone(names)
	if wanted(DomainPKI) && !wanted(DomainUnits) {
		names = append(names, DomainUnits)
	}
	if wanted(DomainPKI) && !wanted(DomainProof) {
		names = append(names, DomainProof)
	}
	if wanted(DomainUnits) && !wanted(DomainCluster) {
		names = append(names, DomainCluster)
	}
	return names
}

// logReporter logs one line for each change.
type logReporter struct{ log *slog.Logger }

// changeLog reports the changes that a look leads to, with how it came about.
func changeLog(ctx context.Context, log *slog.Logger) logReporter {
	return logReporter{log.With("noticed", causeOf(ctx))}
}

// Begin implements plan.Reporter.
func (logReporter) Begin(plan.Change) {}

// End implements plan.Reporter. Of changes that wait the converge's own line tells,
// in one.
func (r logReporter) End(c plan.Change, err error) {
	if held := (*pki.HeldError)(nil); errors.As(err, &held) || errors.Is(err, errGaveWay) {
		return
	}
	attrs := []any{"domain", c.Domain, "action", string(c.Action), "key", c.Key, "because", c.Reason}
	if err != nil {
		r.log.Error("change failed", append(attrs, "error", err)...)
		return
	}
	r.log.Info("changed", attrs...)
}
