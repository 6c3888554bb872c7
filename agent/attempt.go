package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
)

// errAwaits is the error of a network that is not touched while a change of it
// awaits confirmation.
var errAwaits = errors.New("a change of the network awaits confirmation; nothing else is changed until `nodeagent confirm` or `nodeagent rollback`")

// undoPatience is how long undoing waits for whoever changes the host before it
// goes on all the same: the way in is worth more than the other's turn.
const undoPatience = 10 * time.Second

func (h *Host) attempts() confirm.Store { return confirm.Store{Dir: h.root.Confirm()} }

// rollbackAlarm undoes an attempt at its deadline or at the next boot.
func rollbackAlarm() (units.Alarm, error) {
	program, err := os.Executable()
	return units.Alarm{
		Name: "nodeagent.rollback", About: "Undo a change of the network that nobody confirmed",
		Command: program + " rollback --due",
	}, err
}

// wantNetwork is the network of the spec; for the daemon the confirmed one
// where the spec's was rejected.
func (h *Host) wantNetwork() (netcfg.State, error) {
	want := netcfg.WantIn(h.root, h.Spec())
	if !h.heed {
		return want, nil
	}
	records, err := h.attempts().Load()
	if err != nil || records.Rejected == nil || records.Rejected.Network != networkDigest(want) {
		return want, err
	}
	return wayBack(records.Rejected.Back, records.Rejected.BackBoot)
}

func (h *Host) applyNetwork(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	if !h.trying.Load() {
		records, err := h.attempts().Load()
		if err != nil {
			return err
		}
		if records.Attempt != nil {
			return errAwaits
		}
	}
	return h.network.Apply(ctx, changes, rep)
}

// networkDigest tells wanted networks apart; what else a fleet says is not in it.
func networkDigest(want netcfg.State) string {
	content, err := json.Marshal(want)
	if err != nil {
		panic(err) // a State holds nothing that JSON cannot
	}
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// wayBack reads a stored network, reduced to what a reboot leaves of it where
// the host was rebooted since the boot in which it was observed.
func wayBack(stored json.RawMessage, boot string) (netcfg.State, error) {
	var back netcfg.State
	if err := json.Unmarshal(stored, &back); err != nil {
		return back, fmt.Errorf("read the last confirmed network: %w", err)
	}
	now, err := confirm.Now()
	if err == nil && boot != now.Boot {
		back = back.AfterBoot()
	}
	return back, err
}

// Try makes the spec's kernel and network settings, to be undone unless they
// are confirmed within patience. The caller holds the lock of both domains. It
// returns until when to confirm; the zero time where nothing was to be changed.
func (h *Host) Try(ctx context.Context, patience time.Duration, rep plan.Reporter) (Result, time.Time, error) {
	attempt, err := h.begin(ctx, patience)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("nothing was changed: %w", err)
	}
	h.trying.Store(true)
	defer h.trying.Store(false)
	until := time.Time{}
	if attempt != nil {
		until = attempt.Until
		var cancel context.CancelFunc
		// At the deadline the way back is taken, which nothing may cross.
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	result, err := h.Converge(ctx, []string{DomainKernel, DomainNetwork}, rep)
	if err != nil || attempt == nil || ctx.Err() != nil {
		return result, until, errors.Join(err, ctx.Err())
	}
	if attempt.Changed, err = confirm.Now(); err != nil {
		return result, until, err
	}
	return result, until, h.attempts().SaveAttempt(attempt)
}

// begin makes it certain that the network goes back, before it is touched. The
// attempt is nil where there is nothing to change and nothing to confirm.
func (h *Host) begin(ctx context.Context, patience time.Duration) (*confirm.Attempt, error) {
	records, err := h.attempts().Load()
	if err != nil {
		return nil, err
	}
	want := netcfg.WantIn(h.root, h.Spec())
	have, err := h.network.Before(ctx, h.root, want)
	if err != nil {
		return nil, err
	}
	if records.Attempt == nil && len(netcfg.Diff(have, want)) == 0 {
		return nil, nil
	}
	now, err := confirm.Now()
	if err != nil {
		return nil, err
	}
	back, err := netcfg.Back(have, want)
	if err != nil {
		return nil, fmt.Errorf("the way back would not be exact: %w", err)
	}
	boot := now.Boot
	if records.Attempt != nil {
		confirmed, err := wayBack(records.Attempt.Back, records.Attempt.BackBoot)
		if err != nil {
			return nil, err
		}
		back = confirmed.Join(back)
	}
	content, err := json.Marshal(back)
	if err != nil {
		return nil, err
	}
	attempt := &confirm.Attempt{
		Network: networkDigest(want), Spec: h.Spec().Digest, Back: content, BackBoot: boot,
		Deadline: confirm.Moment{Boot: now.Boot, Up: now.Up + patience}, Until: time.Now().Add(patience), Patience: patience,
	}
	return attempt, h.arm(ctx, attempt, records.Attempt != nil)
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
	records, err := h.attempts().Load()
	if err != nil {
		return err
	}
	now, err := confirm.Now()
	if err != nil {
		return err
	}
	if err := records.Confirmable(now, session, local); err != nil {
		return err
	}
	if err := h.attempts().Accept(); err != nil {
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

// Undo takes the way back: at once with a reason, else when the attempt is due,
// which it waits for. It tells whether there was anything to undo.
func (h *Host) Undo(ctx context.Context, reason string, rep plan.Reporter) (bool, error) {
	for {
		records, err := h.attempts().Load()
		if err != nil {
			return false, err
		}
		if records.Attempt == nil {
			return false, h.disarm(ctx)
		}
		now, err := confirm.Now()
		if err != nil {
			return false, err
		}
		due, left := records.Due(now)
		if due != "" || reason != "" {
			return true, h.goBack(ctx, due, reason, rep)
		}
		if !sleepUntil(ctx, time.Now().Add(left)) {
			return false, ctx.Err()
		}
	}
}

// goBack holds the network's lock, unless its holder does not let go of it, and
// takes the way back. Killed at any point, the next call goes on.
func (h *Host) goBack(ctx context.Context, due, reason string, rep plan.Reporter) error {
	lock, err := Acquire(ctx, h.root, []string{DomainNetwork}, undoPatience)
	if err != nil && !errors.Is(err, ErrLocked) {
		return err
	}
	if err == nil {
		defer lock.Release()
	} else {
		h.log.Warn("going back although another nodeagent is changing this host", "error", err)
	}
	records, err := h.attempts().Load()
	if err != nil || records.Attempt == nil {
		return err // confirmed while the lock was waited for
	}
	a := records.Attempt
	if now, nowErr := confirm.Now(); nowErr == nil && due != "" {
		if due, _ = records.Due(now); due == "" {
			return errors.New("another attempt began meanwhile")
		}
	}
	if a.Undoing == "" {
		a.Undoing = due + reason
		if err := h.attempts().SaveAttempt(a); err != nil {
			return err
		}
	}
	back, err := wayBack(a.Back, a.BackBoot)
	if err != nil {
		return err
	}
	if err := h.leadBack(ctx, back, rep); err != nil {
		return fmt.Errorf("go back to the last confirmed network: %w", err)
	}
	err = h.attempts().Reject(&confirm.Rejected{
		Network: a.Network, Spec: a.Spec, Reason: a.Undoing, At: time.Now().UTC(), Back: a.Back, BackBoot: a.BackBoot,
	})
	return errors.Join(err, h.disarm(ctx))
}

// leadBack converges to the stored network: nil only when a fresh look finds
// nothing different.
func (h *Host) leadBack(ctx context.Context, back netcfg.State, rep plan.Reporter) error {
	domain := verbs[netcfg.State]{
		name:    DomainNetwork,
		want:    func(context.Context) (netcfg.State, error) { return back, nil },
		observe: h.network.Observe, diff: netcfg.Diff, apply: h.network.Apply,
	}
	return Converge(ctx, []Domain{domain}, rep).Err()
}

// endAttempt undoes an attempt that is due when the daemon starts, as after a
// reboot on a host whose unit files are gone with it.
func (d *daemon) endAttempt(ctx context.Context) {
	records, err := d.host.attempts().Load()
	if err == nil && records.Attempt != nil {
		var now confirm.Moment
		if now, err = confirm.Now(); err == nil {
			if due, _ := records.Due(now); due != "" {
				err = d.host.goBack(ctx, due, "", logReporter{d.Log})
			}
		}
	}
	if err != nil {
		d.Log.Error("a change of the network that was not confirmed is not undone", "error", err)
	}
}

// ConfirmStatus is what awaits confirmation and what was rejected.
type ConfirmStatus struct {
	Pending  string    `json:"pending,omitempty"` // the spec's digest
	Until    time.Time `json:"until,omitzero"`
	Rejected string    `json:"rejected,omitempty"` // the spec's digest
	Reason   string    `json:"reason,omitempty"`
	// InForce: the rejected network is the present spec's, and so the last
	// confirmed one is kept.
	InForce bool   `json:"inForce,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (h *Host) confirmStatus() *ConfirmStatus {
	records, err := h.attempts().Load()
	s := &ConfirmStatus{}
	if err != nil {
		s.Error = err.Error()
	}
	if a := records.Attempt; a != nil {
		s.Pending, s.Until = a.Spec, a.Until
	}
	if r := records.Rejected; r != nil {
		s.Rejected, s.Reason = r.Spec, r.Reason
		s.InForce = r.Network == networkDigest(netcfg.WantIn(h.root, h.Spec()))
	}
	if *s == (ConfirmStatus{}) {
		return nil
	}
	return s
}

func (s *ConfirmStatus) problems() []string {
	var list []string
	if s == nil {
		return nil
	}
	if s.Error != "" {
		list = append(list, s.Error)
	}
	if s.Pending != "" {
		list = append(list, fmt.Sprintf("the network of spec %s is undone at %s unless it is confirmed: nodeagent confirm", s.Pending, s.Until.Format(time.DateTime)))
	}
	if s.InForce {
		list = append(list, fmt.Sprintf("the network of spec %s was undone (%s) and is not tried again; the last confirmed one is kept", s.Rejected, s.Reason))
	}
	return list
}
