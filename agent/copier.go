package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

const (
	// copyEvery is how often a place is asked that has all it wants: somebody may
	// have deleted something there.
	copyEvery = 6 * time.Hour
	// firstCopyRetry and lastCopyRetry bound the pauses after a failure, which
	// double.
	firstCopyRetry = time.Minute
	lastCopyRetry  = time.Hour
)

// copier brings the host's snapshots to further places in a goroutine of its own:
// a place may be slow or away, and must hold up neither a converge nor the next
// snapshot.
type copier struct {
	spec string // the digest of the spec that is followed
	background
}

// follow brings snapshots where the host's spec says. While that does not change
// it does nothing; otherwise it ends what was under way, which the next run goes
// on with.
func (c *copier) follow(ctx context.Context, h *Host) {
	spec := h.Spec()
	if c.spec == spec.Digest {
		return
	}
	c.stop()
	c.spec = spec.Digest
	if !spec.Has(hosts.RoleEtcd) || len(spec.Snapshots.Copies) == 0 {
		return
	}
	c.begin(ctx, h.keepCopies)
}

// copySoon makes the daemon bring snapshots to further places now.
func (h *Host) copySoon() {
	select {
	case h.saved <- struct{}{}:
	default: // it will
	}
}

// keepCopies brings snapshots to further places until ctx is done.
func (h *Host) keepCopies(ctx context.Context) {
	next := map[string]time.Time{} // by place; what is not in it is due
	for ctx.Err() == nil {
		copies := h.Copies()
		var soonest time.Time
		for _, name := range copies.Names() {
			if !time.Now().Before(next[name]) {
				failed := h.copyOnce(ctx, copies, name)
				next[name] = time.Now().Add(copyPause(failed, rand.Float64()))
			}
			if soonest.IsZero() || next[name].Before(soonest) {
				soonest = next[name]
			}
		}
		if h.awaitSaved(ctx, soonest) {
			clear(next)
		}
	}
}

// copyOnce brings snapshots to one place and returns how often in a row that
// failed now.
func (h *Host) copyOnce(ctx context.Context, copies *Copies, name string) (failed int) {
	before := copies.known(name)
	results, err := copies.Copy(ctx, CopyOptions{Only: []string{name}})
	if ctx.Err() != nil {
		return 0
	}
	for _, result := range results {
		if err != nil && result.Error == "" {
			result.Error = err.Error()
		}
		logCopied(h.log, result, before)
	}
	if err == nil {
		return 0
	}
	return max(1, copies.known(name).Failed)
}

// known is what the host knows of one place.
func (c *Copies) known(name string) store.Known {
	at, _ := c.find(name)
	known, _ := store.ReadKnown(c.memory(), copyPlace(at)) // Copy says what is wrong with it
	return known
}

// copyPause is the pause after a pass that failed for the nth time in a row, or
// did not (0). random, from 0 to 1, spreads hosts that failed together.
func copyPause(failed int, random float64) time.Duration {
	pause := copyEvery
	if failed > 0 {
		pause = min(lastCopyRetry, firstCopyRetry<<min(failed-1, 10))
	}
	return pause/2 + time.Duration(random*float64(pause)/2)
}

// awaitSaved tells whether a snapshot was saved before the moment.
func (h *Host) awaitSaved(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-h.saved:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}
