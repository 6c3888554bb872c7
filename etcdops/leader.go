package etcdops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// PlanMoveLeader picks who leads now and who shall lead: the named member, or
// without a name the follower that is most in step. Where the two are one there
// is nothing to do. It is pure.
func PlanMoveLeader(v View, to string) (from, target MemberView, err error) {
	from, found := v.member(v.Leader)
	if !found || !v.Quorum {
		return from, target, fmt.Errorf("%w: no member leads, so none can hand over; `nodeagent etcd status` tells more", ErrUnsteady)
	}
	if to == "" {
		target, err = bestFollower(v, nil)
		return from, target, err
	}
	target, found = v.member(to)
	switch {
	case !found || !target.Listed:
		return from, target, fmt.Errorf("%q is no member of the cluster; `nodeagent etcd members` lists them", to)
	case target.Learner:
		return from, target, fmt.Errorf("%s is a learner, which cannot lead", to)
	case !target.InStep():
		return from, target, fmt.Errorf("%s is not in step with the leader; `nodeagent etcd status` tells more", to)
	}
	return from, target, nil
}

// bestFollower is the voter most in step that does not lead, one of those
// preferred where there is one.
func bestFollower(v View, preferred []string) (MemberView, error) {
	var fit []MemberView
	for _, m := range v.Members {
		if m.Serves() && m.InStep() && m.Name != v.Leader {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return MemberView{}, errors.New("no other voting member is in step and could lead")
	}
	rank := func(m MemberView) int {
		if slices.Contains(preferred, m.Name) {
			return 0
		}
		return 1
	}
	return slices.MinFunc(fit, func(a, b MemberView) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Lag/100, b.Lag/100), cmp.Compare(a.Latency, b.Latency), cmp.Compare(a.Name, b.Name))
	}), nil
}

// MoveLeader hands the lead to the member that PlanMoveLeader picks, and returns
// when that one leads.
func MoveLeader(ctx context.Context, site Site, to string, told Told) (from, target string, err error) {
	v := Look(ctx, site, false)
	if _, _, err := PlanMoveLeader(v, to); err != nil {
		return "", "", err
	}
	ctx, release, err := takeTurn(ctx, site, v, "etcd move-leader", told)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(causeOf(ctx, err), release()) }()
	for try := 1; ; try++ {
		leader, next, err := PlanMoveLeader(Look(ctx, site, false), to)
		if err != nil {
			return "", "", err
		}
		if err = moveLeader(ctx, site, leader, next, told); err == nil || !lostLead(err) || try == moveTries {
			return leader.Name, next.Name, err
		}
	}
}

// moveTries is how often the lead is handed over when meanwhile another member
// was elected.
const moveTries = 5

// lostLead tells whether the member that was to hand over did not lead any more.
func lostLead(err error) bool {
	return errors.Is(err, rpctypes.ErrNotLeader) || errors.Is(err, rpctypes.ErrLeaderChanged)
}

// moveTime bounds how long the new leader may take to lead.
const moveTime = 30 * time.Second

func moveLeader(ctx context.Context, site Site, leader, next MemberView, told Told) (err error) {
	if leader.id == next.id {
		return nil
	}
	told.say("leader", "%s hands the lead to %s", leader.Name, next.Name)
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	client, err := dial(ctx, site.TLS, leader.Endpoint) // only the leader takes the request
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	if _, err := client.MoveLeader(ctx, next.id); err != nil {
		return fmt.Errorf("hand the lead from %s to %s: %w", leader.Name, next.Name, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := askOnce(ctx, site.TLS, next.Endpoint)
		if err == nil && status.Leader == next.id {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("hand the lead from %s to %s: it does not lead within %s: %w", leader.Name, next.Name, moveTime, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
