package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// afterSwap goes on from the moment at which the restored data is live.
func (r *restorer) afterSwap(ctx context.Context, began time.Time) (Result, error) {
	result, err := r.startAndProve(ctx)
	if err != nil {
		return Result{}, r.revert(ctx, fmt.Errorf("%s: %w", r.verb(), err))
	}
	result.Took = time.Since(began)
	return result, r.startClients(ctx)
}

func (r *restorer) startAndProve(ctx context.Context) (Result, error) {
	r.say(StepSwap, "exchanged; putting the old data aside")
	if err := putAside(r.plan); err != nil {
		return Result{}, err
	}
	if err := r.enter(phaseStarting); err != nil {
		return Result{}, err
	}
	if err := noteFence(r.root, nil); err != nil { // of the data that went
		return Result{}, err
	}
	result, err := r.startEtcd(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := noteReplaced(ctx, r.plan); err != nil {
		// Said where it matters least: hosts that come back ask for it.
		r.say(StepProve, "%s; see that no host comes back with the old data before this is mended by another restore or `nodeagent etcd rejoin` there", err)
	}
	if err := MarkInitialised(r.root, time.Now()); err != nil {
		return Result{}, err
	}
	if err := r.enter(phaseProven); err != nil {
		return Result{}, err
	}
	r.say(StepProve, "healthy at revision %d with %d keys", result.Revision, result.Keys)
	if r.plan.HadData {
		result.KeptOld = r.plan.AsideDir
	}
	return result, nil
}

// startClients starts what uses etcd. The restore stands whatever fails here.
func (r *restorer) startClients(ctx context.Context) error {
	var failed []error
	if r.plan.RepairSpace {
		if err := r.repairSpace(ctx); err != nil {
			failed = append(failed, fmt.Errorf("the alarm NOSPACE stays on, so etcd takes no writes (`nodeagent etcd disarm` tries again): %w", err))
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, component := range reversed(r.plan.Stop) {
		r.say(StepClients, "starting %s", component)
		start := r.units.Start
		if r.resumed {
			start = r.units.Restart
		}
		if err := start(ctx, component); err != nil {
			failed = append(failed, fmt.Errorf("start %s: %w", component, err))
		}
	}
	for _, component := range r.plan.Restart {
		r.say(StepClients, "restarting %s", component)
		if err := r.units.Restart(ctx, component); err != nil {
			failed = append(failed, fmt.Errorf("restart %s: %w", component, err))
		}
	}
	if err := r.finish(); err != nil {
		failed = append(failed, err)
	}
	if len(failed) > 0 {
		return fmt.Errorf("etcd runs with the data that it is to have, but: %w", errors.Join(failed...))
	}
	return nil
}

// finish removes the journal: the restore is over, one way or the other.
func (r *restorer) finish() error {
	if err := removeDoomed(r.root); err != nil {
		return fmt.Errorf("remove what the restore no longer needs: %w", err)
	}
	if err := atomicfile.Remove(journalPath(r.root)); err != nil {
		return fmt.Errorf("remove journal of the restore: %w", err)
	}
	passed("journal removed")
	if !r.plan.Undo {
		return nil
	}
	// Nobody asks for the marks of an undo any more. One that is left here by a
	// crash names an undo that there will not be again.
	var failed []error
	for _, dir := range []string{r.plan.DataDir, r.plan.StagedDir, r.plan.AsideDir} {
		if err := os.Remove(undoMarkPath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
