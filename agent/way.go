package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/netcfg"
)

// way is what leads to a network: the state of its domain, and the sysctls of
// the network.
type way struct {
	network netcfg.State
	sysctls kernel.State
}

// wanted is the network of a spec.
type wanted struct {
	way
	digest string
}

// wanted is what the spec in force says of the network.
func (h *Host) wanted() (wanted, error) {
	w := wanted{way: way{network: netcfg.WantIn(h.root, h.Spec())}}
	originals, err := kernel.LoadOriginals(h.root)
	if err != nil {
		return w, err
	}
	all, err := kernel.Want(h.Spec(), originals)
	if err != nil {
		return w, err
	}
	for _, s := range all.Sysctls {
		if kernel.IsNetwork(s.Name) {
			w.sysctls.Sysctls = append(w.sysctls.Sysctls, s)
		}
	}
	w.digest = w.way.digest()
	return w, nil
}

// digest tells wanted networks apart; what else a fleet says is not in it, nor
// what is put back because the spec does not name it.
func (w way) digest() string {
	named := slices.DeleteFunc(slices.Clone(w.sysctls.Sysctls), func(s kernel.Sysctl) bool { return s.Revert })
	content, err := json.Marshal([]any{w.network, named})
	if err != nil {
		panic(err) // neither holds anything that JSON cannot
	}
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// store is the way as records keep it; boot is when it was observed.
func (w way) store(boot string) (confirm.Way, error) {
	network, err := json.Marshal(w.network)
	if err != nil {
		return confirm.Way{}, err
	}
	sysctls, err := json.Marshal(w.sysctls)
	return confirm.Way{Network: network, Sysctls: sysctls, Boot: boot}, err
}

// readWay reads a stored network as it is.
func readWay(stored confirm.Way) (way, error) {
	var w way
	if err := json.Unmarshal(stored.Network, &w.network); err != nil {
		return w, fmt.Errorf("read the last confirmed network: %w", err)
	}
	if len(stored.Sysctls) > 0 {
		if err := json.Unmarshal(stored.Sysctls, &w.sysctls); err != nil {
			return w, fmt.Errorf("read the last confirmed network: %w", err)
		}
	}
	return w, nil
}

// readBack reads a way back, reduced to what a reboot leaves of it where the
// host was rebooted since the boot in which it was observed.
func readBack(stored confirm.Way) (way, error) {
	w, err := readWay(stored)
	if err != nil {
		return w, err
	}
	now, err := confirm.Now()
	if err == nil && stored.Boot != now.Boot {
		w.network = w.network.AfterBoot()
	}
	return w, err
}

// nest makes an attempt follow one that was not confirmed: it goes back to
// where that one would have, and is judged against what was before that one.
func nest(a, pending *confirm.Attempt, later way) (way, error) {
	a.Earlier = append(slices.Clone(pending.Earlier), pending.Network)
	for i, f := range a.Before {
		at := slices.IndexFunc(pending.Before, func(b confirm.Finding) bool { return b.Name == f.Name })
		if at >= 0 && pending.Before[at].OK {
			a.Before[i] = pending.Before[at]
		}
	}
	first, err := readBack(pending.Back)
	if err != nil {
		return way{}, err
	}
	known := map[string]bool{}
	for _, s := range first.sysctls.Sysctls {
		known[s.Name] = true
	}
	for _, s := range later.sysctls.Sysctls {
		if !known[s.Name] {
			first.sysctls.Sysctls = append(first.sysctls.Sysctls, s)
		}
	}
	first.network = first.network.Join(later.network)
	return first, nil
}

// follow converges to the way's end: nil only when a fresh look finds nothing
// different.
func (h *Host) follow(ctx context.Context, to way, rep plan.Reporter) error {
	sysctls := verbs[kernel.State]{
		name: DomainKernel,
		want: func(context.Context) (kernel.State, error) { return to.sysctls, nil },
		observe: func(ctx context.Context, want kernel.State) (kernel.State, error) {
			return kernel.Observe(ctx, h.kernel, want)
		},
		diff: kernel.DiffBack,
		apply: func(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
			return kernel.Apply(ctx, h.kernel, changes, rep)
		},
	}
	network := verbs[netcfg.State]{
		name:    DomainNetwork,
		want:    func(context.Context) (netcfg.State, error) { return to.network, nil },
		observe: h.network.Observe, diff: netcfg.Diff, apply: h.network.Apply,
	}
	return Converge(ctx, []Domain{sysctls, network}, rep).Err()
}

// settle records the network that was just made, without an attempt, as the
// confirmed one, unless the record says so already.
func (h *Host) settle(result Result, how string) error {
	made := slices.ContainsFunc(result, func(o Outcome) bool { return o.Domain == DomainNetwork })
	if !made || failedNetwork(result) != "" {
		return nil
	}
	records, now, err := h.recordsNow()
	if err != nil || records.Attempt != nil {
		return err
	}
	want, err := h.wanted()
	if err != nil || records.Fresh(want.digest, now.Boot) {
		return err
	}
	stored, err := want.store(now.Boot)
	if err != nil {
		return err
	}
	return h.attempts().Accept(&confirm.Confirmed{
		Network: want.digest, Spec: h.Spec().Digest, At: time.Now().UTC(), How: how, Want: stored,
	})
}
