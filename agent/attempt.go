package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
)

// A change of the network can undo itself. The order of steps makes every point
// at which this process, or the host, may die a harmless one:
//
//  1. look: what is there, what leads back to it, what the probes find
//  2. arm the alarm, a timer of systemd's and a unit that runs at a boot
//  3. record the attempt: way back, deadline
//  4. change the network
//  5. record that the change is complete; only then can it be confirmed
//  6. ask the probes again
//  7. confirm: record the confirmed network, forget the attempt, disarm
//
// Dead before 3, nothing was touched; between 3 and 7 the alarm undoes it, at
// the deadline or at the next boot.

// errAwaits is the error of a network that is not touched while a change of it
// awaits confirmation.
var errAwaits = errors.New("a change of the network awaits confirmation; nothing else is changed until `nodeagent confirm` or `nodeagent rollback`")

const (
	// probesWithin is how long probes may take where the spec does not say.
	probesWithin = 30 * time.Second
	// probesMargin is how long the change itself and its confirmation may take
	// where the probes confirm it.
	probesMargin = time.Minute
)

// Terms say how a change of the network is confirmed.
type Terms struct {
	// Domains are those to converge of kernel and network.
	Domains []string
	// Patience is the time after which the host can be reached as before unless a
	// person confirms, for which there is a little less; 0: nobody is asked, and the
	// probes decide alone.
	Patience time.Duration
	// NoProbes asks no probes.
	NoProbes bool
	// By is who makes the change: "apply", which "" stands for, or "run".
	By string
}

// Trial is what became of a change of the network.
type Trial struct {
	Result Result
	// Until is when the network goes back unless a person confirms; zero where
	// nobody needs to.
	Until time.Time
	// Reachable is by when the host can be reached as before then.
	Reachable time.Time
	// Verdicts are what the probes found.
	Verdicts []confirm.Verdict
	// Undone is why the network is as it was before, "" where it was changed.
	Undone string
}

// Err is nil when the change was made and not undone.
func (t Trial) Err() error {
	if t.Undone != "" {
		return fmt.Errorf("the network is as it was before: %s", t.Undone)
	}
	return t.Result.Err()
}

func (h *Host) attempts() confirm.Store { return confirm.Store{Dir: h.root.Confirm()} }

// recordsNow are the records with the moment at which they are to be judged.
func (h *Host) recordsNow() (confirm.Records, confirm.Moment, error) {
	records, err := h.attempts().Load()
	if err != nil {
		return records, confirm.Moment{}, err
	}
	now, err := confirm.Now()
	return records, now, err
}

// rollbackAlarm undoes an attempt at its deadline or at the next boot.
func rollbackAlarm() (units.Alarm, error) {
	program, err := os.Executable()
	return units.Alarm{
		Name: "nodeagent.rollback", About: "Undo a change of the network that nobody confirmed",
		Command: program + " rollback --due",
	}, err
}

// Try makes the spec's kernel and network settings, to be undone unless they
// are confirmed on the terms. The caller holds the lock of both domains. An
// error means that it is not known what became of the change; it is then undone
// at its deadline.
func (h *Host) Try(ctx context.Context, terms Terms, rep plan.Reporter) (Trial, error) {
	h.trying.Store(true)
	defer h.trying.Store(false)
	attempt, err := h.begin(ctx, terms, rep)
	if err != nil {
		return Trial{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if attempt == nil {
		result, err := h.Converge(ctx, terms.Domains, rep)
		return Trial{Result: result}, errors.Join(err, h.settle(result, terms.by()))
	}
	// At the deadline the way back is taken, which nothing may cross.
	limited, cancel := context.WithDeadline(ctx, attempt.Until)
	defer cancel()
	result, err := h.Converge(limited, terms.Domains, rep)
	trial := Trial{Result: result, Until: attempt.Until, Reachable: attempt.Reachable}
	if err != nil || ctx.Err() != nil {
		return trial, errors.Join(err, ctx.Err())
	}
	if failed := failedNetwork(result); failed != "" {
		return h.undone(ctx, trial, "the change failed: "+failed, rep)
	}
	if attempt.Changed, err = confirm.Now(); err != nil {
		return trial, err
	}
	if err := h.attempts().SaveAttempt(attempt); err != nil {
		return trial, err
	}
	return h.judge(ctx, attempt, trial, rep)
}

func (t Terms) by() string { return cmp.Or(t.By, "apply") }

// judge asks the probes again. They confirm the change where nobody else is to,
// and undo it where something does not answer any more.
func (h *Host) judge(ctx context.Context, a *confirm.Attempt, trial Trial, rep plan.Reporter) (Trial, error) {
	if len(a.Before) > 0 {
		a.After = h.probeAgain(ctx, a)
		if ctx.Err() != nil {
			return trial, ctx.Err()
		}
		trial.Verdicts = confirm.Judge(a.Before, a.After)
		if err := h.attempts().SaveAttempt(a); err != nil {
			return trial, err
		}
		if lost := confirm.Lost(a.Before, a.After); lost != "" {
			return h.undone(ctx, trial, "what answered before does no more: "+lost, rep)
		}
	}
	if !a.ByProbes {
		return trial, nil
	}
	trial.Until = time.Time{}
	return trial, h.accept(ctx, "probes")
}

// undone takes the way back at once.
func (h *Host) undone(ctx context.Context, trial Trial, reason string, rep plan.Reporter) (Trial, error) {
	trial.Undone, trial.Until = reason, time.Time{}
	return trial, h.goBack(ctx, reason, rep)
}

// failedNetwork says what of the network is not as the spec says; "" where all
// is. What else of the kernel's settings failed speaks not against the network.
func failedNetwork(result Result) string {
	var failed []string
	for _, o := range result {
		if o.Domain == DomainNetwork && o.Err != nil {
			failed = append(failed, o.Err.Error())
		}
		for _, c := range o.Remaining {
			if isNetworkChange(c) && o.Err == nil || o.Domain == DomainKernel && isNetworkChange(c) {
				failed = append(failed, fmt.Sprintf("%s %s is still to be done", c.Action, c.Key))
			}
		}
	}
	return strings.Join(failed, "; ")
}

// isNetworkChange tells whether a change is one of the network: of its domain,
// or of a sysctl of the network.
func isNetworkChange(c plan.Change) bool {
	name, isSysctl := strings.CutPrefix(c.Key, "sysctl ")
	return c.Domain == DomainNetwork || c.Domain == DomainKernel && isSysctl && kernel.IsNetwork(name)
}

// begin makes it certain that the network goes back, before it is touched. The
// attempt is nil where there is nothing to change and nothing to confirm.
func (h *Host) begin(ctx context.Context, terms Terms, rep plan.Reporter) (*confirm.Attempt, error) {
	records, err := h.endDue(ctx, rep)
	if err != nil {
		return nil, err
	}
	want, err := h.wanted()
	if err != nil {
		return nil, err
	}
	back, changes, err := h.lookBack(ctx, want)
	if err != nil {
		return nil, err
	}
	if records.Attempt == nil && !changes {
		return nil, nil
	}
	now, err := confirm.Now()
	if err != nil {
		return nil, err
	}
	attempt := &confirm.Attempt{
		Network: want.digest, Spec: h.Spec().Digest, By: terms.by(), ByProbes: terms.Patience == 0,
		Patience:    terms.Patience - confirm.Reserve(terms.Patience),
		Interrupted: records.Rejected.Interruptions(want.digest),
	}
	if !terms.NoProbes {
		attempt.Before = h.probeBefore(ctx)
	}
	if pending := records.Attempt; pending != nil {
		if back, err = nest(attempt, pending, back); err != nil {
			return nil, err
		}
	}
	if attempt.Back, err = back.store(now.Boot); err != nil {
		return nil, err
	}
	if attempt.Want, err = want.way.store(now.Boot); err != nil {
		return nil, err
	}
	if now, err = confirm.Now(); err != nil {
		return nil, err
	}
	if attempt.ByProbes {
		attempt.Patience = probesMargin + within(h.Spec().Network.Probes)
	}
	attempt.Deadline = confirm.Moment{Boot: now.Boot, Up: now.Up + attempt.Patience}
	begun := time.Now()
	attempt.Until = begun.Add(attempt.Patience)
	if !attempt.ByProbes {
		attempt.Reachable = begun.Add(terms.Patience)
	}
	return attempt, h.arm(ctx, attempt, records.Attempt != nil)
}

func within(probes hosts.Probes) time.Duration { return cmp.Or(probes.Within, probesWithin) }

// endDue reads the records; an attempt that is being undone, or is due, is first
// undone and remembered as rejected.
func (h *Host) endDue(ctx context.Context, rep plan.Reporter) (confirm.Records, error) {
	records, now, err := h.recordsNow()
	if err != nil {
		return records, err
	}
	due, _ := records.Due(now)
	if due == "" {
		return records, nil
	}
	if err := h.goBack(ctx, due, rep); err != nil {
		return records, err
	}
	return h.attempts().Load()
}

// lookBack observes the network and says what leads back to it, and whether the
// wanted one would change anything.
func (h *Host) lookBack(ctx context.Context, want wanted) (way, bool, error) {
	have, err := h.network.Before(ctx, h.root, want.network)
	if err != nil {
		return way{}, false, err
	}
	sysctls, err := kernel.Observe(ctx, h.kernel, want.sysctls)
	if err != nil {
		return way{}, false, err
	}
	var back way
	if back.network, err = netcfg.Back(have, want.network); err != nil {
		return way{}, false, fmt.Errorf("the way back would not be exact: %w", err)
	}
	if back.sysctls, err = kernel.Back(ctx, h.kernel, want.sysctls); err != nil {
		return way{}, false, err
	}
	changes := append(kernel.Diff(sysctls, want.sysctls), netcfg.Diff(have, want.network)...)
	return back, slices.ContainsFunc(changes, isNetworkChange), nil
}

// arm records the attempt and sets the alarm. A first attempt's alarm comes
// first, so that no record is ever without one; a later one's record comes
// first, so that the alarm that is set goes off no later than it should, and
// then waits for the new deadline.
func (h *Host) arm(ctx context.Context, a *confirm.Attempt, pending bool) error {
	alarm, err := rollbackAlarm()
	if err != nil {
		return err
	}
	if pending {
		if err := h.attempts().SaveAttempt(a); err != nil {
			return err
		}
		return h.systemd.SetAlarm(ctx, alarm, a.Patience)
	}
	if err := h.systemd.SetAlarm(ctx, alarm, a.Patience); err != nil {
		return err
	}
	return h.attempts().SaveAttempt(a)
}

// Confirm keeps the network as it is. The caller holds the network's lock.
func (h *Host) Confirm(ctx context.Context, session confirm.Session, local bool) error {
	records, now, err := h.recordsNow()
	if err != nil {
		return err
	}
	if err := records.Confirmable(now, session, local); err != nil {
		return err
	}
	return h.accept(ctx, "a person")
}

// accept makes the attempt's network the confirmed one.
func (h *Host) accept(ctx context.Context, how string) error {
	records, now, err := h.recordsNow()
	if err != nil {
		return err
	}
	a := records.Attempt
	if a == nil {
		return confirm.ErrNothing
	}
	if due, _ := records.Due(now); due != "" {
		return fmt.Errorf("%w: %s", confirm.ErrTooLate, due)
	}
	if err := h.attempts().Accept(&confirm.Confirmed{
		Network: a.Network, Spec: a.Spec, At: time.Now().UTC(), How: how, Want: a.Want, Probes: a.After,
	}); err != nil {
		return err
	}
	return h.disarm(ctx)
}

func (h *Host) disarm(ctx context.Context) error {
	alarm, err := rollbackAlarm()
	if err != nil {
		return err
	}
	return h.systemd.ClearAlarm(ctx, alarm)
}
