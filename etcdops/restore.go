package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Units starts and stops components by their layout names. Starting one that
// runs and stopping one that does not are no errors. Start returns when the
// component runs; it need not be ready.
type Units interface {
	Start(ctx context.Context, component string) error
	Stop(ctx context.Context, component string) error
	Restart(ctx context.Context, component string) error
}

// Event is what a restore tells while it runs.
type Event struct {
	// Step is one of the Step… constants.
	Step string
	// Text says what happens now; empty where only the progress moved.
	Text string
	// Done and Total are bytes, Total 0 where nothing is counted.
	Done, Total int64
}

// Result is what a restore did.
type Result struct {
	Plan RestorePlan `json:"plan"`
	// Revision and Keys are what the restored etcd answered.
	Revision int64 `json:"revision"`
	Keys     int64 `json:"keys"`
	// KeptOld is where the old data lies, empty where there was none.
	KeptOld string        `json:"keptOld,omitempty"`
	Took    time.Duration `json:"took"`
}

// restorer carries out one restore.
type restorer struct {
	root   layout.Root
	plan   RestorePlan
	units  Units
	report func(Event)
	// resumed: what uses etcd may have been started since, with caches from
	// before the exchange, so it is restarted rather than started.
	resumed bool
}

func newRestorer(root layout.Root, plan RestorePlan, units Units, report func(Event)) *restorer {
	if report == nil {
		report = func(Event) {}
	}
	return &restorer{root: root, plan: plan, units: units, report: report}
}

// undoTimeout bounds what is done after the caller's context has ended, so that
// an interrupt from the keyboard does not leave a host without etcd.
const undoTimeout = 10 * time.Minute

// Restore carries out the plan. Until the folders are exchanged a failure, or
// the end of ctx, leaves everything as it was; after that, until the restored
// etcd has proved itself, the old data goes back. Each step is in a journal
// before it begins: after a crash [EndRestore] knows what to do. Once etcd has
// proved itself the restore stands, and an error tells only what else did not
// start.
func Restore(ctx context.Context, root layout.Root, plan RestorePlan, units Units, report func(Event)) (_ Result, err error) {
	began := time.Now()
	r := newRestorer(root, plan, units, report)
	if err := atomicfile.MkdirAll(etcdDir(root), 0o700); err != nil {
		return Result{}, fmt.Errorf("%s: %w", r.verb(), err)
	}
	release, err := Lock(restoreLock(root))
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", r.verb(), err)
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := r.recheck(); err != nil {
		return Result{}, fmt.Errorf("%s: %w; nothing was changed", r.verb(), err)
	}
	return r.run(ctx, began)
}

// run goes through all steps.
func (r *restorer) run(ctx context.Context, began time.Time) (Result, error) {
	if err := r.untilSwap(ctx); err != nil {
		return Result{}, r.undo(ctx, fmt.Errorf("%s: %w", r.verb(), err))
	}
	return r.afterSwap(ctx, began)
}

// verb begins the errors.
func (r *restorer) verb() string {
	if r.plan.Undo {
		return "undo restore"
	}
	return "restore"
}

func restoreLock(root layout.Root) string { return filepath.Join(etcdDir(root), "restore.lock") }

// recheck makes sure that what the plan was made from is still so.
func (r *restorer) recheck() error {
	if r.plan.DataDir != r.root.EtcdData() {
		return fmt.Errorf("the plan is for %q, not for %q", r.plan.DataDir, r.root.EtcdData())
	}
	interrupted, err := RestoreInProgress(r.root)
	if err != nil {
		return err
	}
	if interrupted {
		return ErrRestoreInterrupted
	}
	return r.recheckFiles()
}

// recheckFiles makes sure of the snapshot and the folders.
func (r *restorer) recheckFiles() error {
	made := []string{r.plan.AsideDir}
	if !r.plan.Undo {
		made = append(made, r.plan.StagedDir)
		info, err := os.Stat(r.plan.Snapshot.Path)
		if err != nil {
			return err
		}
		if info.Size() != r.plan.Snapshot.Stored.Size || !info.ModTime().Equal(r.plan.Modified) {
			return fmt.Errorf("snapshot %q was changed after it was verified: plan again", r.plan.Snapshot.Path)
		}
	}
	data, err := hasData(r.plan.DataDir)
	if err != nil {
		return err
	}
	for _, path := range made {
		// Made by another restore since. Going back would take it for the old data.
		if exists(path) {
			return fmt.Errorf("%q appeared since the restore was planned: plan again", path)
		}
	}
	if data != r.plan.HadData {
		return fmt.Errorf("the data in %q appeared or vanished since the restore was planned: plan again", r.plan.DataDir)
	}
	return nil
}

func (r *restorer) enter(p phase) error {
	return writeJournal(r.root, journal{Phase: p, Plan: r.plan})
}

func (r *restorer) say(step, format string, args ...any) {
	r.report(Event{Step: step, Text: fmt.Sprintf(format, args...)})
}

// untilSwap does everything that can be undone by leaving the live data alone.
func (r *restorer) untilSwap(ctx context.Context) error {
	if err := removeDoomed(r.root); err != nil {
		return err
	}
	if err := r.enter(phaseStaging); err != nil {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	// Others may have been started since the plan was made.
	if err := r.plan.fence(ctx); err != nil {
		return err
	}
	if err := r.enter(phaseStopping); err != nil {
		return err
	}
	if err := r.stopAll(ctx); err != nil {
		return err
	}
	if err := r.plan.fence(ctx); err != nil {
		return err
	}
	if err := r.spend(); err != nil {
		return err
	}
	if err := r.enter(phaseSwapping); err != nil {
		return err
	}
	r.say(StepSwap, "exchanging folders")
	if err := ctx.Err(); err != nil {
		return err
	}
	return swapIn(r.plan)
}

// prepare makes the data that is to be live, or looks at that which is there.
func (r *restorer) prepare(ctx context.Context) error {
	if r.plan.Undo {
		r.say(StepStage, "reading %s", r.plan.StagedDir)
		if err := r.plan.checkKept(ctx); err != nil {
			return err
		}
		return writeMark(r.plan.StagedDir, r.plan)
	}
	r.say(StepStage, "restoring into %s", r.plan.StagedDir)
	progress := func(done, total int64) { r.report(Event{Step: StepStage, Done: done, Total: total}) }
	if err := stage(ctx, r.plan, progress); err != nil {
		return err
	}
	r.say(StepStage, "staged and verified")
	return r.try(ctx)
}

// spend notes the token of restored data before it becomes live.
func (r *restorer) spend() error {
	if r.plan.Undo {
		return nil
	}
	return spendToken(r.root, r.plan.Token)
}

// stopAll stops what uses etcd, then etcd. A stop that has begun is waited for
// even when ctx ends: starting a component again that is still going down could
// be taken for one that runs.
func (r *restorer) stopAll(ctx context.Context) error {
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, component := range append(append([]string{}, r.plan.Stop...), layout.Etcd) {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.say(StepStop, "stopping %s", component)
		if err := r.units.Stop(patient, component); err != nil {
			return fmt.Errorf("stop %s: %w", component, err)
		}
	}
	return r.checkStopped()
}

// checkStopped makes sure that no etcd has the live data open, whoever started
// it: bbolt holds a lock on its file while it is.
func (r *restorer) checkStopped() error {
	database := filepath.Join(r.plan.DataDir, "member", "snap", "db")
	busy, err := held(database)
	if err != nil {
		return fmt.Errorf("see whether etcd has stopped: %w", err)
	}
	if busy {
		return fmt.Errorf("a process still has %q open although etcd was stopped: stop it", database)
	}
	return nil
}
