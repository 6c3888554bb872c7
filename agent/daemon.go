package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// pollInterval is how often that is looked at of which the kernel announces no
// changes; see Host.polled.
const pollInterval = 10 * time.Second

// lockPatience is how long the daemon waits for an apply or a restore.
const lockPatience = 15 * time.Minute

// Settings is what the daemon runs with.
type Settings struct {
	Root    layout.Root
	Fleet   string // the fleet's folder
	Host    string // this host's name in it
	Version string // for the log
	Log     *slog.Logger
}

// Run is `nodeagent run`: it keeps the host converged until ctx is done. An
// error means that it could not start: the fleet is not valid, or what it must
// watch cannot be watched.
func Run(ctx context.Context, s Settings) error {
	d := &daemon{Settings: s, manager: manager{log: s.Log}, events: make(chan Event)}
	spec, err := d.load()
	if err != nil {
		return err
	}
	if d.host, err = Open(ctx, s.Root, spec, s.Log); err != nil {
		return err
	}
	defer d.host.Close()
	if err := d.watch(ctx); err != nil {
		return err
	}
	s.Log.Info("nodeagent runs", "host", spec.Name, "spec", spec.Digest, "version", s.Version)
	go d.manager.watchdog(ctx)
	d.manager.ready()
	d.endRestore(ctx)
	(&loop{log: s.Log, events: d.events, converge: d.converge, due: d.due}).run(ctx)
	d.manager.stopping()
	d.snapshots.stop()
	return nil
}

// daemon is owned by the goroutine of its loop; watchers reach it by events
// only.
type daemon struct {
	Settings
	manager   manager
	host      *Host
	events    chan Event
	snapshots snapshotter
	polled    time.Time // when the kernel domain was last looked at
	// renewal is when the next certificate is due, as of the last look at the
	// pki domain.
	renewal Due
}

// load reads the fleet and picks this host.
func (d *daemon) load() (*hosts.Spec, error) {
	fleet, err := hosts.Load(d.Fleet)
	if err != nil {
		return nil, err
	}
	for _, w := range fleet.Warnings {
		d.Log.Warn(w.String())
	}
	return fleet.Host(d.Host)
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
			send(ctx, d.events, Event{Source: "SIGHUP"})
		}
	}()
	if err := watchTrees(ctx, d.Log, d.events, Event{Source: "the fleet's files"}, d.Fleet); err != nil {
		return err
	}
	return d.host.watch(ctx, d.events)
}

// reload takes the fleet's files as they are now. An invalid fleet is reported
// and the spec in force stays.
func (d *daemon) reload(ctx context.Context) error {
	spec, err := d.load()
	if err != nil {
		return fmt.Errorf("the fleet's new files are not used, the spec %s stays in force: %w", d.host.Spec().Digest, err)
	}
	if spec.Digest == d.host.Spec().Digest {
		return nil
	}
	d.Log.Info("the spec changed", "from", d.host.Spec().Digest, "to", spec.Digest)
	d.host.setSpec(spec)
	return nil
}

// converge converges the named domains and those that build on them; none
// means all, with the fleet's files read again. It returns the names of the
// domains that did not converge.
func (d *daemon) converge(ctx context.Context, names []string) []string {
	d.manager.busy()
	defer d.manager.idle()
	var reloadErr error
	if len(names) == 0 {
		d.manager.reloading()
		reloadErr = d.reload(ctx)
		d.manager.ready()
	}
	names = withDependents(names)
	if slices.Contains(names, DomainKernel) {
		d.polled = time.Now()
	}
	lock, err := Acquire(ctx, d.Root, lockPatience)
	if err != nil {
		d.Log.Error("not converged", "error", err)
		return names
	}
	defer lock.Release()
	result, markErr := d.host.Converge(ctx, names, logReporter{d.Log})
	if ctx.Err() != nil {
		return nil
	}
	if slices.Contains(names, DomainPKI) {
		d.renewal = d.host.certificatesDue(ctx, time.Now())
	}
	if result.Applied() > 0 {
		// What the work has taken is not needed while the host stays as it is.
		debug.FreeOSMemory()
	}
	d.tell(result, errors.Join(reloadErr, markErr))
	d.snapshots.follow(ctx, d.host, d.Version)
	var failed []string
	for _, o := range result {
		if !o.Converged() {
			failed = append(failed, o.Domain)
		}
	}
	return failed
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
	lock, err := Acquire(ctx, d.Root, lockPatience)
	if err != nil {
		d.Log.Error("an interrupted restore was not ended", "error", err)
		return
	}
	defer lock.Release()
	outcome, err := d.host.ResumeRestore(ctx, func(e etcdops.Event) {
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
	if wanted(DomainUnits) && !wanted(DomainCluster) {
		names = append(names, DomainCluster)
	}
	return names
}

// tell logs what did not converge and gives systemd its status line. A
// converge that found nothing to do is silent.
func (d *daemon) tell(result Result, reloadErr error) {
	err := errors.Join(reloadErr, result.Err())
	if err != nil {
		d.Log.Error("not converged", "error", err)
		d.manager.status("not converged: " + firstLine(err.Error()))
		return
	}
	if result.Applied() > 0 {
		d.Log.Info("converged", "changes", result.Applied())
	}
	if result.Applied() > 0 || len(result) == len(DomainNames()) {
		d.manager.status("converged at " + time.Now().Format(time.DateTime))
	}
}

func firstLine(text string) string {
	for i, r := range text {
		if r == '\n' {
			return text[:i] + " …"
		}
	}
	return text
}

// due is the earlier of the next poll and the next certificate.
func (d *daemon) due(now time.Time) Due {
	poll := Due{At: cmp.Or(d.polled, now).Add(pollInterval), Domains: d.host.polled()}
	return earlier(poll, d.renewal)
}

// logReporter logs one line for each change.
type logReporter struct{ log *slog.Logger }

// Begin implements plan.Reporter.
func (logReporter) Begin(plan.Change) {}

// End implements plan.Reporter.
func (r logReporter) End(c plan.Change, err error) {
	attrs := []any{"domain", c.Domain, "action", string(c.Action), "key", c.Key, "because", c.Reason}
	if err != nil {
		r.log.Error("change failed", append(attrs, "error", err)...)
		return
	}
	r.log.Info("changed", attrs...)
}
