package etcdops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Outcome is what EndRestore did.
type Outcome string

// The outcomes.
const (
	OutcomeNone      Outcome = "none"      // no restore was interrupted
	OutcomeCompleted Outcome = "completed" // the restored data is live and proven
	OutcomeUndone    Outcome = "undone"    // everything is as before the restore
)

// Ending is what somebody wants of a restore that was interrupted.
type Ending string

const (
	// EndSafely completes one whose data was already live, and undoes it if etcd
	// does not prove itself; one that had not come so far is undone, since what
	// somebody wanted then need not be what they want now.
	EndSafely Ending = "safely"
	// EndForward completes it from wherever it stopped.
	EndForward Ending = "forward"
	// EndBack makes everything as it was. A restore that has proved itself stands;
	// [PlanUndo] is the way back from there.
	EndBack Ending = "back"
)

// ErrStands is the error of going back from a restore that has proved itself.
var ErrStands = errors.New("the restored etcd has proved itself already, so the restore stands")

// EndRestore ends a restore, or the undoing of one, that was interrupted by a
// crash or a power cut at whatever point. Without an interrupted one it does
// nothing. While one runs it is refused with ErrBusy. Identities open the snapshot
// where it has to be read once more.
func EndRestore(ctx context.Context, root layout.Root, how Ending, open OpenOptions, units Units, report func(Event)) (_ Outcome, _ Result, err error) {
	if found, err := RestoreInProgress(root); err != nil || !found {
		return OutcomeNone, Result{}, err
	}
	release, err := Lock(restoreLock(root))
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	j, found, err := readJournal(root)
	if err != nil || !found { // the restore ended while we waited for its lock
		return OutcomeNone, Result{}, err
	}
	r := newRestorer(root, j.Plan, units, report)
	r.resumed, r.plan.open = true, open
	return r.resume(ctx, j.Phase, how)
}

func (r *restorer) resume(ctx context.Context, at phase, how Ending) (Outcome, Result, error) {
	began := time.Now()
	if at == phaseProven {
		err := r.startClients(ctx)
		if how == EndBack {
			err = errors.Join(fmt.Errorf("%w: `nodeagent snapshot undo` brings the old data back", ErrStands), err)
		}
		return OutcomeCompleted, Result{Plan: r.plan}, err
	}
	live, err := r.plan.marked(r.plan.DataDir)
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	data, err := hasData(r.plan.DataDir)
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	// Up to here the live data was never touched, and an etcd that was started on
	// it since, by systemd after a power cut, goes on undisturbed.
	untouched := at != phaseReverting && !live && (data || at == phaseStaging || at == phaseStopping)
	switch {
	case live && how != EndBack && (at == phaseSwapping || at == phaseStarting):
		result, err := r.afterSwap(ctx, began)
		return outcomeOf(err), result, err
	case untouched && how == EndForward:
		return r.again(ctx, at, began)
	}
	undo := r.putBack
	if untouched {
		undo = func(ctx context.Context) error { return r.takeBack(ctx, at) }
	}
	if err := undo(ctx); err != nil {
		return OutcomeUndone, Result{}, fmt.Errorf("undo interrupted restore: %w", err)
	}
	return OutcomeUndone, Result{}, nil
}

// again begins anew with a plan whose data has not been live.
func (r *restorer) again(ctx context.Context, at phase, began time.Time) (Outcome, Result, error) {
	if err := swapBack(r.plan, at == phaseStaging); err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	if err := r.recheckFiles(); err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w; `nodeagent snapshot restore --abort` leaves everything as it was", err)
	}
	result, err := r.run(ctx, began)
	if err != nil && errors.Is(err, errUntouched) {
		return OutcomeUndone, result, err
	}
	return outcomeOf(err), result, err
}

func outcomeOf(err error) Outcome {
	if errors.Is(err, errReverted) {
		return OutcomeUndone
	}
	return OutcomeCompleted
}

// undo ends a restore that failed before its data was live. The cause comes back
// with what the undoing met.
func (r *restorer) undo(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	j, found, err := readJournal(r.root)
	if err != nil {
		return errors.Join(cause, err)
	}
	if !found {
		j.Phase = phaseStaging
	}
	if live, err := r.plan.marked(r.plan.DataDir); err != nil || live {
		// The exchange happened and only its sync failed.
		return errors.Join(r.revert(ctx, cause), err)
	}
	if err := r.takeBack(ctx, j.Phase); err != nil {
		return errors.Join(cause, fmt.Errorf("undo: %w", err))
	}
	return fmt.Errorf("%w; %w", cause, errUntouched)
}

// errUntouched is within every error of a restore that ended before it exchanged
// anything.
var errUntouched = errors.New("the live data was not touched")

// takeBack deletes the staged data and starts what was stopped.
func (r *restorer) takeBack(ctx context.Context, at phase) error {
	if r.plan.Undo {
		r.say(StepUndo, "leaving %s where it is", r.plan.StagedDir)
	} else {
		r.say(StepUndo, "removing %s", r.plan.StagedDir)
	}
	if err := swapBack(r.plan, at == phaseStaging); err != nil {
		return err
	}
	if at == phaseStaging {
		return r.finish()
	}
	return errors.Join(r.startOld(ctx), r.finish())
}

// startOld starts etcd and what was stopped with it on the old data. Without
// data nothing is started: etcd would begin an empty cluster.
func (r *restorer) startOld(ctx context.Context) error {
	if data, err := hasData(r.plan.DataDir); err != nil || !data {
		return err
	}
	var failed []error
	for _, component := range append([]string{layout.Etcd}, reversed(r.plan.Stop)...) {
		r.say(StepUndo, "starting %s", component)
		if err := r.units.Start(ctx, component); err != nil {
			failed = append(failed, fmt.Errorf("start %s: %w", component, err))
		}
	}
	return errors.Join(failed...)
}

// errReverted is within every error after which the old data is live again.
var errReverted = errors.New("the old data is back in its place")

// revert puts the old data back after the restored one failed to prove itself.
func (r *restorer) revert(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := r.enter(phaseReverting)
	if err == nil {
		err = r.putBack(ctx)
	}
	if err != nil {
		return errors.Join(cause, fmt.Errorf("put the old data back: %w", err))
	}
	if !r.plan.HadData {
		return fmt.Errorf("%w; the data was taken away again, and as before there is none (%w)", cause, errReverted)
	}
	return fmt.Errorf("%w; %w", cause, errReverted)
}

func (r *restorer) putBack(ctx context.Context) error {
	r.say(StepUndo, "stopping %s", layout.Etcd)
	if err := r.units.Stop(ctx, layout.Etcd); err != nil {
		return fmt.Errorf("stop %s: %w", layout.Etcd, err)
	}
	r.say(StepUndo, "exchanging folders back")
	if err := swapBack(r.plan, false); err != nil {
		return err
	}
	return errors.Join(r.startOld(ctx), r.finish())
}
