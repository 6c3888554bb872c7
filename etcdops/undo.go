package etcdops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Outcome is what ResumeOrUndo did.
type Outcome string

// The outcomes.
const (
	OutcomeNone      Outcome = "none"      // no restore was interrupted
	OutcomeCompleted Outcome = "completed" // the restored data is live and proven
	OutcomeUndone    Outcome = "undone"    // everything is as before the restore
)

// ResumeOrUndo ends a restore that was interrupted, by a crash or a power cut at
// whatever point. One whose data was already live is completed, and undone if
// etcd does not prove itself; one that had not come so far is undone, since what
// somebody wanted then need not be what they want now. Without an interrupted
// restore it does nothing. While a restore runs it is refused with ErrBusy.
func ResumeOrUndo(ctx context.Context, root layout.Root, units Units, report func(Event)) (_ Outcome, _ Result, err error) {
	if found, err := RestoreInProgress(root); err != nil || !found {
		return OutcomeNone, Result{}, err
	}
	release, err := lock(restoreLock(root))
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	j, found, err := readJournal(root)
	if err != nil || !found { // the restore ended while we waited for its lock
		return OutcomeNone, Result{}, err
	}
	r := newRestorer(root, j.Plan, units, report)
	r.resumed = true
	return r.resume(ctx, j.Phase)
}

func (r *restorer) resume(ctx context.Context, at phase) (Outcome, Result, error) {
	began := time.Now()
	if at == phaseProven {
		return OutcomeCompleted, Result{Plan: r.plan}, r.startClients(ctx)
	}
	live, err := marked(r.plan.DataDir, r.plan.ID)
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	if live && (at == phaseSwapping || at == phaseStarting) {
		result, err := r.afterSwap(ctx, began)
		if errors.Is(err, errReverted) {
			return OutcomeUndone, result, err
		}
		return OutcomeCompleted, result, err
	}
	data, err := hasData(r.plan.DataDir)
	if err != nil {
		return OutcomeNone, Result{}, fmt.Errorf("resume restore: %w", err)
	}
	undo := r.putBack
	if at != phaseReverting && !live && (data || at == phaseStaging || at == phaseStopping) {
		// The live data was never touched, and an etcd that was started on it
		// since, by systemd after a power cut, goes on undisturbed.
		undo = func(ctx context.Context) error { return r.takeBack(ctx, at) }
	}
	if err := undo(ctx); err != nil {
		return OutcomeUndone, Result{}, fmt.Errorf("undo interrupted restore: %w", err)
	}
	return OutcomeUndone, Result{}, nil
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
	if live, err := marked(r.plan.DataDir, r.plan.ID); err != nil || live {
		// The exchange happened and only its sync failed.
		return errors.Join(r.revert(ctx, cause), err)
	}
	if err := r.takeBack(ctx, j.Phase); err != nil {
		return errors.Join(cause, fmt.Errorf("undo: %w", err))
	}
	return fmt.Errorf("%w; the live data was not touched", cause)
}

// takeBack deletes the staged data and starts what was stopped.
func (r *restorer) takeBack(ctx context.Context, at phase) error {
	r.say(StepUndo, "removing %s", r.plan.StagedDir)
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
		return fmt.Errorf("%w; the restored data was removed, and as before there is none (%w)", cause, errReverted)
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
