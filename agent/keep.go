package agent

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/netcfg"
)

// held is the way back that is kept to instead of the spec's network: for the
// daemon, where the spec's was rejected. A person's apply may try it again.
func (h *Host) held() (way, bool, error) {
	if !h.heed {
		return way{}, false, nil
	}
	records, err := h.attempts().Load()
	if err != nil || records.Rejected == nil {
		return way{}, false, err
	}
	want, err := h.wanted()
	if err != nil || !records.Rejected.Holds(want.digest) {
		return way{}, false, err
	}
	back, err := readBack(records.Rejected.Back)
	return back, true, err
}

// wantNetwork is the network of the spec, or the one that is held.
func (h *Host) wantNetwork() (netcfg.State, error) {
	back, held, err := h.held()
	if err != nil || held {
		return back.network, err
	}
	return netcfg.WantIn(h.root, h.Spec()), nil
}

// wantKernel is what the spec says of the kernel, with the sysctls of the
// network that is held.
func (h *Host) wantKernel() (kernel.State, error) {
	originals, err := kernel.LoadOriginals(h.root)
	if err != nil {
		return kernel.State{}, err
	}
	want, err := kernel.Want(h.Spec(), originals)
	if err != nil {
		return want, err
	}
	back, held, err := h.held()
	if err != nil || !held {
		return want, err
	}
	return want.Hold(back.sysctls), nil
}

// mayTouchNetwork is nil unless a change of the network that is not this
// process's awaits confirmation.
func (h *Host) mayTouchNetwork() error {
	if h.trying.Load() {
		return nil
	}
	records, err := h.attempts().Load()
	if err == nil && records.Attempt != nil {
		err = errAwaits
	}
	return err
}

func (h *Host) applyNetwork(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	if err := h.mayTouchNetwork(); err != nil {
		return err
	}
	return h.network.Apply(ctx, changes, rep)
}

func (h *Host) applyKernel(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	var refused error
	if slices.ContainsFunc(changes, isNetworkChange) {
		if refused = h.mayTouchNetwork(); refused != nil {
			changes = slices.DeleteFunc(slices.Clone(changes), isNetworkChange)
		}
	}
	h.seenNetwork.forget()
	return errors.Join(refused, kernel.Apply(ctx, h.kernel, changes, rep))
}

// Apply converges the named domains (none: all) as a person orders it. A network
// that was made so is a confirmed one, also where it was rejected before.
func (h *Host) Apply(ctx context.Context, names []string, rep plan.Reporter) (Result, error) {
	result, err := h.Converge(ctx, names, rep)
	return result, errors.Join(err, h.settle(result, "apply"))
}

// HasProbes tells whether the spec names anything that judges a change of the
// network.
func (h *Host) HasProbes() bool {
	p := h.Spec().Network.Probes
	return len(p.Names)+len(p.Connect) > 0
}

// keep converges kernel and network as the daemon does. A network that probes
// are to judge is tried; see [confirm.Records.Turn]. trial is nil where none was.
func (h *Host) keep(ctx context.Context, names []string, rep plan.Reporter) (result Result, trial *Trial, err error) {
	records, now, err := h.recordsNow()
	if err != nil {
		return nil, nil, err
	}
	want, err := h.wanted()
	if err != nil {
		return nil, nil, err
	}
	turn := records.Turn(want.digest, now.Boot, h.HasProbes())
	if turn == confirm.TurnReturn {
		h.toConfirmed(ctx, records.Confirmed, now.Boot, rep)
		turn = confirm.TurnTry
	}
	switch turn {
	case confirm.TurnWait:
		return nil, nil, errAwaits
	case confirm.TurnTry:
		t, err := h.Try(ctx, Terms{Domains: []string{DomainKernel, DomainNetwork}, By: confirm.ByRun}, rep)
		if err == nil && t.Undone != "" {
			err = t.Err()
		}
		if err != nil {
			return t.Result, &t, err
		}
		// What else the lane has follows the network that it is for.
		rest := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == DomainKernel || name == DomainNetwork })
		if len(rest) > 0 {
			var more Result
			more, err = h.Converge(ctx, rest, rep)
			t.Result = append(t.Result, more...)
		}
		return t.Result, &t, err
	}
	result, err = h.Converge(ctx, names, rep)
	if turn == confirm.TurnMake {
		err = errors.Join(err, h.settle(result, confirm.ByRun))
	}
	return result, nil, err
}

// toConfirmed makes the last confirmed network in a boot that has not seen it,
// so that the one to be tried has something to go back to. Where it cannot be
// made, the next one is tried all the same.
func (h *Host) toConfirmed(ctx context.Context, c *confirm.Confirmed, boot string, rep plan.Reporter) {
	to, err := readWay(c.Want)
	if err == nil {
		h.trying.Store(true)
		err = h.follow(ctx, to, rep)
		h.trying.Store(false)
	}
	if err != nil {
		h.log.Warn("the last confirmed network could not be made in full before a new one is tried", "error", err)
	}
	c.Want.Boot = boot
	if err := h.attempts().SaveConfirmed(c); err != nil {
		h.log.Warn("what is confirmed is not on record", "error", err)
	}
}

// judgedNow notes that the host's lane has done with the network of the spec in
// force, whatever became of it, and tells whether that is news.
func (h *Host) judgedNow() bool {
	if !h.HasProbes() {
		return false // nobody asks
	}
	want, err := h.wanted()
	if err != nil {
		return false
	}
	before := h.judged.Swap(want.digest)
	return before != want.digest
}

// unsettled says why components are not touched now: a restart of theirs is not
// undone together with the network that it is for. "" where they may be.
func (h *Host) unsettled() string {
	records, err := h.attempts().Load()
	if err != nil {
		return ""
	}
	if records.Attempt != nil {
		return "a change of the network awaits confirmation"
	}
	want, err := h.wanted()
	if err != nil || !h.HasProbes() || h.judged.Load() == want.digest {
		return ""
	}
	return "a change of the network is being made"
}

// patienceOver bounds how long probes are waited for by a person's patience.
func patienceOver(a *confirm.Attempt, limit time.Duration) time.Duration {
	now, err := confirm.Now()
	if err != nil {
		return limit
	}
	return min(limit, max(0, a.Deadline.Up-now.Up-time.Second))
}

// atomicString is a string that goroutines share; "" at first.
type atomicString struct{ value atomic.Pointer[string] }

// Load returns the string.
func (s *atomicString) Load() string {
	if p := s.value.Load(); p != nil {
		return *p
	}
	return ""
}

// Swap sets the string and returns the one before.
func (s *atomicString) Swap(to string) string {
	if p := s.value.Swap(&to); p != nil {
		return *p
	}
	return ""
}
