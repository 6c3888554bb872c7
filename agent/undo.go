package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
)

const (
	// undoPatience is how long undoing waits for whoever changes the host before
	// it goes on all the same: the way in is worth more than the other's turn.
	undoPatience = 10 * time.Second
	// undoTries is how often the way back is tried before it ends with what
	// could not be brought back; the alarm tries about once a second.
	undoTries = 120
)

// Undo takes the way back: at once with a reason, else when the attempt is due,
// which it waits for. It tells whether there was anything to undo. The caller
// does not hold the network's lock.
func (h *Host) Undo(ctx context.Context, reason string, rep plan.Reporter) (bool, error) {
	for {
		records, now, err := h.recordsNow()
		if err != nil {
			return false, err
		}
		if records.Attempt == nil {
			return false, h.disarm(ctx)
		}
		due, left := records.Due(now)
		if due != "" || reason != "" {
			return true, h.lockAndGoBack(ctx, reason, rep)
		}
		if !sleepUntil(ctx, time.Now().Add(left)) {
			return false, ctx.Err()
		}
	}
}

// lockAndGoBack holds the network's lock, unless its holder does not let go of
// it, and takes the way back.
func (h *Host) lockAndGoBack(ctx context.Context, reason string, rep plan.Reporter) error {
	lock, err := Acquire(ctx, h.root, []string{DomainNetwork}, undoPatience)
	alone := err == nil
	switch {
	case alone:
		defer lock.Release()
	case errors.Is(err, ErrLocked):
		h.log.Warn("going back although another nodeagent is changing this host", "error", err)
	default:
		return err
	}
	if reason == "" {
		records, now, err := h.recordsNow()
		if err != nil || records.Attempt == nil {
			return err // confirmed, or undone, while the lock was waited for
		}
		if due, _ := records.Due(now); due == "" {
			return errors.New("another attempt began meanwhile")
		}
		if alone {
			if err := h.noteInterruption(records.Attempt, now); err != nil {
				return err
			}
		}
	}
	return h.goBack(ctx, reason, rep)
}

// noteInterruption puts down that `run`, which would have held the lock, is gone
// in the middle of the attempt, and did not come back to end it. After a reboot
// that is not known: somebody may have rebooted a host that nobody could reach.
func (h *Host) noteInterruption(a *confirm.Attempt, now confirm.Moment) error {
	if a.By != confirm.ByRun || a.Undoing != "" || a.Deadline.Boot != now.Boot {
		return nil
	}
	a.Interrupt()
	return h.attempts().SaveAttempt(a)
}

// goBack takes the way back of the attempt, because it is due or for the reason
// given. The caller holds the network's lock. Killed at any point, the next call
// goes on.
func (h *Host) goBack(ctx context.Context, reason string, rep plan.Reporter) error {
	records, now, err := h.recordsNow()
	if err != nil || records.Attempt == nil {
		return err
	}
	a := records.Attempt
	if a.Undoing == "" {
		if due, _ := records.Due(now); due != "" {
			reason = due
		}
		a.Undo(reason)
		if err := h.attempts().SaveAttempt(a); err != nil {
			return err
		}
	}
	back, err := readBack(a.Back)
	if err != nil {
		return err
	}
	left := ""
	if err := h.follow(ctx, back, rep); err != nil {
		if a.Tries++; a.Tries < undoTries {
			return errors.Join(fmt.Errorf("go back to the last confirmed network: %w", err), h.attempts().SaveAttempt(a))
		}
		left = err.Error()
	}
	rejection := records.Rejection(time.Now(), left)
	if rejection.Again() {
		h.log.Info("a change of the network was interrupted and is undone; it is tried again", "spec", a.Spec, "interrupted", a.Interrupted)
	}
	return errors.Join(h.attempts().Reject(rejection), h.disarm(ctx))
}

// endAttempt goes on with an attempt that a daemon before this one left: it
// undoes one that is due, as after a reboot on a host whose unit files are gone
// with it, or that was interrupted, and lets the probes judge one that awaits
// them. One that awaits a person is left alone.
func (d *daemon) endAttempt(ctx context.Context) {
	if err := d.host.resume(ctx, logReporter{d.Log}); err != nil {
		d.Log.Error("a change of the network that was not confirmed is not ended", "error", err)
	}
}

func (h *Host) resume(ctx context.Context, rep plan.Reporter) error {
	records, err := h.attempts().Load()
	if err != nil || records.Attempt == nil {
		return err
	}
	lock, err := acquireQuietly(ctx, h.root, []string{DomainNetwork})
	if err != nil {
		return err
	}
	defer lock.Release()
	records, now, err := h.recordsNow()
	if err != nil || records.Attempt == nil {
		return err
	}
	a := records.Attempt
	due, _ := records.Due(now)
	switch {
	case due != "":
		if err := h.noteInterruption(a, now); err != nil {
			return err
		}
		return h.goBack(ctx, due, rep)
	case !a.ByProbes:
		return nil
	case a.Changed == confirm.Moment{}:
		a.Interrupt()
		if err := h.attempts().SaveAttempt(a); err != nil {
			return err
		}
		return h.goBack(ctx, a.Undoing, rep)
	}
	_, err = h.judge(ctx, a, Trial{}, rep)
	return err
}
