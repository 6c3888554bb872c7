package etcdops

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrUnsteady is the error of an operation that takes a member away for a while
// and is refused, since the cluster would not bear it.
var ErrUnsteady = errors.New("etcd's cluster is not steady")

// catchUpTime is how long a member may take to be back and in step.
const catchUpTime = 5 * time.Minute

// steady tells why no member may be taken away now: all have to serve and be in
// step, which is more than the quorum. It is pure.
func (v View) steady() error {
	unsteady := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s; `nodeagent etcd status` tells more", ErrUnsteady, fmt.Sprintf(format, args...))
	}
	if !v.Quorum {
		return unsteady("there is no quorum")
	}
	for _, m := range v.Members {
		switch {
		case m.OtherCluster != "":
			return unsteady("%s is of another cluster", m.Name)
		case !m.Listed:
			return unsteady("%s is no member yet", m.Name)
		case m.Learner:
			return unsteady("%s is joining as a learner", m.Name)
		case !m.Answers:
			return unsteady("%s does not answer", m.Name)
		case !m.HasLeader:
			return unsteady("%s has no leader", m.Name)
		case m.Lag > inStep:
			return unsteady("%s is %d entries behind", m.Name, m.Lag)
		case m.Error != "":
			return unsteady("%s: %s", m.Name, firstLine(m.Error))
		}
	}
	if v.alarmed(AlarmCorrupt) {
		return unsteady("the alarm CORRUPT is on")
	}
	return nil
}

// awaitSteady looks until the cluster is steady, for as long as a member may
// take to catch up.
func awaitSteady(ctx context.Context, site Site) (View, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		v := Look(ctx, site, false)
		err := v.steady()
		if err == nil {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return v, causeOf(ctx, err)
		case <-tick.C:
		}
	}
}
