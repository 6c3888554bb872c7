package agent

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
)

const (
	// shareStep is how much later than the host before it a host begins, where one
	// takes a snapshot for all.
	shareStep = 20 * time.Second
	// shareTTL is how long the claim of a host lasts that has died.
	shareTTL = 30 * time.Second
	// sharePatience is how long another may take at most before a host takes a
	// snapshot of its own: one more is better than none.
	sharePatience = time.Hour
	// shareBlind is how long etcd may be without an answer before each host takes
	// one of its own.
	shareBlind = time.Minute
)

// share decides which host takes the snapshot of a moment. It is pure: hosts that
// have the same fleet decide alike.
type share struct {
	cluster, self string
	// hosts are those that may take it, sorted: the host alone where each takes its
	// own.
	hosts                         []string
	spread, step, patience, blind time.Duration
}

// shareOf is how the host of a spec shares the moments of its schedule.
func shareOf(spec *hosts.Spec, schedule calendar.Schedule, now time.Time) share {
	s := share{
		cluster: spec.Cluster, self: spec.Name, hosts: []string{spec.Name},
		spread: spec.Snapshots.Spread, step: shareStep, patience: sharePatience, blind: shareBlind,
	}
	if spec.Snapshots.By == hosts.ByOne {
		for _, p := range spec.Peers {
			if p.Has(hosts.RoleEtcd) {
				s.hosts = append(s.hosts, p.Name)
			}
		}
		slices.Sort(s.hosts)
	}
	if shortest, _ := schedule.Gaps(now); shortest > 0 {
		s.patience = min(s.patience, shortest/2)
		s.step = min(s.step, shortest/time.Duration(4*len(s.hosts)))
	}
	return s
}

// alone tells whether the host takes every snapshot itself.
func (s share) alone() bool { return len(s.hosts) == 1 }

// begin is when the host's turn comes for a moment: within the spread at a time of
// its own, or at one on which all agree, in an order that is another for each
// moment.
func (s share) begin(moment time.Time) time.Time {
	if s.alone() {
		return moment.Add(ownDelay(s.spread, s.cluster, s.self, "snapshot"))
	}
	of := strconv.FormatInt(moment.Unix(), 10)
	first := int(ownDelay(time.Duration(len(s.hosts))*time.Second, s.cluster, of, "first") / time.Second)
	rank := (slices.Index(s.hosts, s.self) - first + len(s.hosts)) % len(s.hosts)
	return moment.Add(ownDelay(s.spread, s.cluster, of, "spread") + time.Duration(rank)*s.step)
}

// shared is what a host sees whose turn has come.
type shared struct {
	now, begin, moment time.Time
	// known tells that etcd answers and takes claims; where it does not, since when.
	known bool
	since time.Time
	// last is when the last snapshot was taken that etcd knows of; zero for one
	// that a wrong clock has dated.
	last time.Time
	// holder has claimed the moment, empty where nobody has.
	holder string
}

// shareAct is what a host does about a moment.
type shareAct string

const (
	shareDone  shareAct = "done"  // another has taken it
	shareWait  shareAct = "wait"  // another takes it
	shareClaim shareAct = "claim" // it is for this host, if it is the first to say so
	shareTake  shareAct = "take"  // this host takes one, claim or no claim
)

// next is what to do now and why; for shareWait, until when at most.
func (s share) next(v shared) (act shareAct, until time.Time, reason string) {
	switch {
	case !v.last.Before(v.moment) && !v.last.IsZero():
		return shareDone, time.Time{}, "another host has taken it"
	case !v.known && v.now.Sub(v.since) < s.blind:
		return shareWait, v.since.Add(s.blind), "etcd does not tell whose turn it is"
	case !v.known:
		return shareTake, time.Time{}, fmt.Sprintf("etcd has not told for %s whose turn it is", s.blind)
	case v.holder == "" || v.holder == s.self:
		return shareClaim, time.Time{}, "it is this host's turn"
	case v.now.Sub(v.begin) < s.patience:
		return shareWait, v.begin.Add(s.patience), v.holder + " takes it"
	}
	return shareTake, time.Time{}, fmt.Sprintf("%s has claimed it and did not deliver within %s", v.holder, s.patience)
}

// sharedSnapshot is the last snapshot that a host has taken for all; nil where each
// takes its own, or etcd does not tell.
func (h *Host) sharedSnapshot(ctx context.Context, now time.Time) *etcdops.Taken {
	spec := h.Spec()
	if spec.Snapshots.By != hosts.ByOne || len(etcdEndpoints(spec)) < 2 {
		return nil
	}
	claims, err := etcdops.OpenClaims(ctx, EtcdTLS(h.root), etcdEndpoints(spec))
	if err != nil {
		return nil
	}
	defer claims.Close()
	claims.Timeout = statusPatience
	last, err := claims.LastTaken(ctx)
	if err != nil || last.At.IsZero() || last.Ahead(now) {
		return nil
	}
	return &last
}
