package units

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// startUnit starts or restarts a unit; units are all that are wanted, among
// them those that this one needs.
type startUnit struct {
	unit    Unit
	units   []Unit
	restart bool
}

func (s startUnit) do(ctx context.Context, a *application) error {
	if s.restart {
		return a.systemd.Restart(ctx, s.unit)
	}
	return a.systemd.Start(ctx, s.unit)
}

// startAll carries out changes that start units, each as soon as the units that
// it needs are ready.
func (a *application) startAll(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	if err := a.settle(ctx); err != nil {
		return plan.Each(ctx, changes, rep, func(context.Context, plan.Change) error {
			return fmt.Errorf("not started: %w", err)
		})
	}
	run := &starting{application: a, rep: rep, outcomes: make([]*outcome, len(changes)), idle: map[string]func() error{}}
	for i, c := range changes {
		run.outcomes[i] = &outcome{name: c.Payload.(startUnit).unit.Name, done: make(chan struct{})}
	}
	var group sync.WaitGroup
	for i, c := range changes {
		group.Go(func() {
			defer close(run.outcomes[i].done)
			run.outcomes[i].err = run.one(ctx, i, c)
		})
	}
	group.Wait()
	var failed []error
	for i, o := range run.outcomes {
		if o.err != nil && !errors.Is(o.err, errNotAttempted) {
			failed = append(failed, fmt.Errorf("%s %s: %w", changes[i].Action, changes[i].Key, o.err))
		}
	}
	return errors.Join(failed...)
}

// errNotAttempted marks changes that were left out because ctx was done.
var errNotAttempted = errors.New("not attempted")

// starting is one run of startAll.
type starting struct {
	*application
	rep      plan.Reporter
	report   sync.Mutex // guards rep
	outcomes []*outcome

	mu   sync.Mutex
	idle map[string]func() error // readiness of units that this run does not start
}

type outcome struct {
	name string
	done chan struct{} // closed when err is set
	err  error         // only to be read then
}

func (r *starting) one(ctx context.Context, i int, c plan.Change) error {
	s := c.Payload.(startUnit)
	err := r.writable(s.unit)
	if err == nil {
		err = r.await(ctx, i, s)
	}
	if err == nil && r.systemd.Guard != nil {
		err = r.systemd.Guard(ctx, s.unit.Name)
	}
	if ctx.Err() != nil {
		return errNotAttempted
	}
	r.tell(func() { r.rep.Begin(c) })
	if err == nil {
		err = r.do(ctx, c)
	}
	r.tell(func() { r.rep.End(c, err) })
	return err
}

func (r *starting) tell(report func()) {
	r.report.Lock()
	defer r.report.Unlock()
	report()
}

// await waits until the units that s needs are ready: those that this run
// starts when their turn is over, others when their probe answers.
func (r *starting) await(ctx context.Context, i int, s startUnit) error {
	for _, need := range s.unit.Needs {
		at := slices.IndexFunc(r.outcomes, func(o *outcome) bool { return o.name == need })
		switch {
		case at >= i:
			return fmt.Errorf("not started: it needs %s, which comes after it", need)
		case at >= 0:
			select {
			case <-r.outcomes[at].done:
			case <-ctx.Done():
				return ctx.Err()
			}
			if r.outcomes[at].err != nil {
				return fmt.Errorf("not started: %s is not ready", need)
			}
		default:
			if err := r.ready(ctx, need, s.units); err != nil {
				return fmt.Errorf("not started: %s is not ready: %w", need, err)
			}
		}
	}
	return nil
}

// ready waits, once for all that need it, for a unit that should be running.
func (r *starting) ready(ctx context.Context, name string, units []Unit) error {
	unit, known := State{Units: units}.find(name)
	if !known {
		unit = Unit{Name: name}
	}
	r.mu.Lock()
	once, seen := r.idle[name]
	if !seen {
		once = sync.OnceValue(func() error { return r.systemd.awaitReady(ctx, unit) })
		r.idle[name] = once
	}
	r.mu.Unlock()
	return once()
}

// Start starts a unit and returns when it is ready: its start job is done and
// its probe, if it has one, answers. A unit that runs is only waited for.
func (s *Systemd) Start(ctx context.Context, u Unit) error {
	return s.bringUp(ctx, "start", u, func(c *dbus.Conn) jobCall { return c.StartUnitContext })
}

// Restart stops a unit if it runs, starts it and returns when it is ready. It
// waits for the unit's turn first.
func (s *Systemd) Restart(ctx context.Context, u Unit) error {
	if s.Turn != nil {
		end, err := s.Turn(ctx, u.Name)
		if err != nil {
			return err
		}
		defer end()
	}
	return s.bringUp(ctx, "restart", u, func(c *dbus.Conn) jobCall { return c.RestartUnitContext })
}

func (s *Systemd) bringUp(ctx context.Context, verb string, u Unit, call func(*dbus.Conn) jobCall) error {
	if lacks := u.lacks(executable); lacks != "" {
		component := strings.TrimPrefix(strings.TrimSuffix(u.Name, filepath.Ext(u.Name)), layout.UnitPrefix)
		return fmt.Errorf("%s: %s", component, lacks)
	}
	ctx, cancel := u.deadline(ctx)
	defer cancel()
	// A unit that failed too often would be refused ("start-limit-hit"), and
	// what nodeagent does on purpose shall not count as failing.
	if err := s.forget(ctx, u.Name); err != nil {
		return err
	}
	if err := s.job(ctx, verb, u.Name, call); err != nil {
		return err
	}
	return s.awaitReady(ctx, u)
}

// defaultTimeout is how long a unit without a probe may take to start; systemd
// itself usually gives up after 90 s.
const defaultTimeout = 2 * time.Minute

func (u Unit) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := defaultTimeout
	if u.Ready != nil && u.Ready.Timeout > 0 {
		timeout = u.Ready.Timeout
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready within %s", timeout))
}

// Stop stops a unit and returns when it has ended. One that does not run, or
// that systemd does not know, is left so without an error.
func (s *Systemd) Stop(ctx context.Context, name string) error {
	err := s.job(ctx, "stop", name, func(c *dbus.Conn) jobCall { return c.StopUnitContext })
	return ignoreUnknown(err)
}

// forget makes systemd forget that a unit failed, and how often it started.
func (s *Systemd) forget(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if err := ignoreUnknown(conn.ResetFailedUnitContext(ctx, name)); err != nil {
		return fmt.Errorf("reset failures of %q: %w%s", name, err, rootHint())
	}
	return nil
}

// ignoreUnknown drops the error that systemd gives for a unit it has not loaded.
func ignoreUnknown(err error) error {
	var e godbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	return err
}
