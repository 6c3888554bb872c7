package etcdops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// startEtcd starts etcd and waits until it has proved itself. One of several
// members does so only when most of them have been restored: until then it is
// told for whom it waits, and started again where systemd gives up on it.
func (r *restorer) startEtcd(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, r.plan.HealthTimeout)
	defer cancel()
	if err := r.awaitPort(ctx); err != nil {
		return Result{}, err
	}
	r.say(StepStart, "starting %s", layout.Etcd)
	var formed atomic.Bool
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); r.watchOthers(watching, &formed) }()
	defer func() { stop(); <-done }()
	for {
		formed.Store(false)
		err := r.units.Start(ctx, layout.Etcd)
		if err == nil {
			break
		}
		if !formed.Load() || ctx.Err() != nil {
			return Result{}, fmt.Errorf("start %s with the data that it is to have: %w%s", layout.Etcd, err, r.missing(ctx))
		}
	}
	r.say(StepProve, "waiting for etcd to answer")
	result, err := prove(ctx, r.plan)
	if err != nil {
		return Result{}, fmt.Errorf("%w%s", err, r.missing(ctx))
	}
	return result, nil
}

// portPatience is how long nodeagent's service may take to notice the restore and
// to leave etcd's peer port, on which it answered in etcd's place.
const portPatience = 30 * time.Second

// awaitPort waits until etcd's peer port is free, or etcd itself has it.
func (r *restorer) awaitPort(ctx context.Context) error {
	if r.plan.Peer == (TLS{}) {
		return nil
	}
	self := r.plan.Members[slices.IndexFunc(r.plan.Members, func(m Member) bool { return m.Name == r.plan.Host })]
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(portPatience); knock(ctx, self.PeerURL) == doorOpen; {
		if a, err := askPeer(ctx, r.plan.Peer, self); err == nil && (a.State == PeerForms || a.State == PeerServes) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("something other than etcd listens at %s: stop it, so that etcd can be started there", self.PeerURL)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// alone tells whether this host needs no other one.
func (p RestorePlan) alone() bool { return len(p.Members) < 2 || p.Peer == (TLS{}) }

// watchPause is the pause between two looks at the other hosts.
const watchPause = time.Second

// watchOthers tells who has come and who has not, each time that changes, and
// notes that this host's own member listens.
func (r *restorer) watchOthers(ctx context.Context, formed *atomic.Bool) {
	if r.plan.alone() {
		return
	}
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	said := ""
	for {
		there, missing := r.gathered(ctx)
		if slices.Contains(there, r.plan.Host) {
			formed.Store(true)
			if text := strings.Join(missing, ", "); text != said && ctx.Err() == nil {
				said = text
				r.sayWho(there, missing)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *restorer) sayWho(there, missing []string) {
	text := "all are there"
	if len(missing) > 0 {
		text = "the same command is to be run on " + strings.Join(missing, ", ")
	}
	r.say(StepProve, "%d of %d members run; %s", len(there), len(r.plan.Members), text)
}

// gathered are the members of the new cluster that run, and those that do not.
func (r *restorer) gathered(ctx context.Context) (there, missing []string) {
	for _, a := range AskPeers(ctx, r.plan.Peer, r.plan.Members) {
		switch {
		case a.ClusterID == r.plan.ClusterID && (a.State == PeerForms || a.State == PeerServes):
			there = append(there, a.Member.Name)
		case a.Member.Name != r.plan.Host:
			missing = append(missing, a.Member.Name)
		}
	}
	return there, missing
}

// missing says for an error which hosts were not there when time ran out.
func (r *restorer) missing(ctx context.Context) string {
	if r.plan.alone() || r.plan.Undo {
		return ""
	}
	there, missing := r.gathered(context.WithoutCancel(ctx))
	if len(there) >= quorum(len(r.plan.Members)) || len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s had not been restored with %s by then; begin again with another --attempt on every host, and run them within %s)",
		strings.Join(missing, ", "), r.plan.Digest, r.plan.HealthTimeout)
}

// repairSpace deals with NOSPACE once all members are there. The first of them
// does it; the others wait until it is done.
func (r *restorer) repairSpace(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.plan.HealthTimeout)
	defer cancel()
	site := Site{TLS: r.plan.TLS, Members: r.plan.Members, Self: r.plan.Host, Local: r.plan.Endpoint}
	first := slices.Min(memberNames(r.plan.Members)) == r.plan.Host
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	r.say(StepSpace, "making room, and switching the alarm NOSPACE off")
	for {
		v := Look(ctx, site, false)
		var err error
		if v.Quorum && !v.alarmed(AlarmNoSpace) {
			return nil
		}
		if first {
			err = RepairSpace(ctx, site, func(step, format string, args ...any) { r.say(StepSpace, step+": "+format, args...) })
			if err == nil || !errors.Is(err, ErrUnsteady) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited %s for all members", r.plan.HealthTimeout), err)
		case <-tick.C:
		}
	}
}
