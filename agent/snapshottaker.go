package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
)

// taker takes the scheduled snapshots of one host.
type taker struct {
	spec     *hosts.Spec
	schedule calendar.Schedule
	share    share
	log      *slog.Logger
	// save takes a snapshot; prune deletes those that no rule keeps.
	save  func(ctx context.Context) (etcdops.Manifest, error)
	prune func(ctx context.Context)
	// open reaches etcd's members; ttl is how long a claim outlives its holder.
	open func(ctx context.Context) (*etcdops.Claims, error)
	ttl  time.Duration

	// last is when this loop took one, which counts even where the folder cannot
	// be listed; noted when another host has taken one, as etcd told.
	last, noted time.Time
}

// longestSleep bounds how long the next moment is slept for without a look at
// the clock, which may have been set meanwhile.
const longestSleep = time.Hour

// run takes snapshots until ctx is done or the schedule is.
func (t *taker) run(ctx context.Context) {
	for ctx.Err() == nil {
		now := time.Now()
		moment, ok := t.moment(now)
		if !ok {
			return // the schedule has no further moment
		}
		begin := t.share.begin(moment)
		if pause := now.Add(longestSleep); begin.After(pause) {
			sleepUntil(ctx, pause)
			continue
		}
		if !sleepUntil(ctx, begin) {
			return
		}
		if err := t.turn(ctx, moment); err != nil && ctx.Err() == nil {
			t.log.Error("the scheduled snapshot failed", "error", err, "again in", snapshotRetry)
			sleepUntil(ctx, time.Now().Add(snapshotRetry))
		}
	}
}

// moment is the one that calls for the next snapshot. It lies in the past where
// that was missed, and long ago where there is none at all.
func (t *taker) moment(now time.Time) (time.Time, bool) {
	newest := t.last
	if newest.After(now) {
		newest = time.Time{} // the clock was put back since
	}
	if found := newestSnapshot(t.log, t.spec, now); found.After(newest) {
		newest = found
	}
	if t.noted.After(newest) && !(etcdops.Taken{At: t.noted}).Ahead(now) {
		newest = t.noted
	}
	if newest.IsZero() {
		return time.Unix(0, 0).In(now.Location()), true
	}
	moment := t.schedule.Next(newest.In(now.Location())) // manifests are in UTC
	return moment, !moment.IsZero()
}

// turn sees to it that there is a snapshot of the moment, this host's or another's.
func (t *taker) turn(ctx context.Context, moment time.Time) error {
	if t.share.alone() {
		_, err := t.take(ctx)
		return err
	}
	turn := &takerTurn{taker: t, moment: moment, begin: time.Now()}
	defer turn.close()
	for ctx.Err() == nil {
		done, err := turn.look(ctx)
		if done || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// take takes a snapshot and prunes.
func (t *taker) take(ctx context.Context) (etcdops.Manifest, error) {
	m, err := t.save(ctx)
	if err != nil {
		return m, err
	}
	t.last = time.Now().Round(0) // by the wall clock, which may be put back
	t.log.Info("snapshot taken", "file", m.Path(t.spec.Snapshots.Destination), "revision", m.Revision, "bytes", m.Size)
	for _, note := range m.Notes() {
		t.log.Warn("about the snapshot", "note", note)
	}
	t.prune(ctx)
	return m, nil
}

// snapshotClaim is the claim in etcd of the host that takes a snapshot for all.
const snapshotClaim = "snapshot"

// takerTurn is a host's turn for one moment.
type takerTurn struct {
	*taker
	moment, begin time.Time
	claims        *etcdops.Claims
	// blind is since when etcd does not answer, refused since when it takes no
	// claim although it does, as with NOSPACE; zero when it does.
	blind, refused time.Time
	told           string
}

func (t *takerTurn) close() {
	if t.claims != nil {
		_ = t.claims.Close() // nothing is written by closing
		t.claims = nil
	}
}

// look finds out how things are and does what follows.
func (t *takerTurn) look(ctx context.Context) (done bool, err error) {
	v := shared{now: time.Now(), begin: t.begin, moment: t.moment}
	claim, last, err := t.ask(ctx)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	v.known, v.holder = err == nil, claim.Holder
	if !last.Ahead(v.now) {
		v.last = last.At
	}
	switch {
	case v.known:
		t.blind = time.Time{}
	case t.blind.IsZero():
		t.blind = v.now
	}
	v.since = t.blind
	if v.known && !t.refused.IsZero() {
		v.known, v.since = false, t.refused
	}
	act, until, reason := t.share.next(v)
	t.tell(act, reason, err)
	switch act {
	case shareDone:
		t.noted = last.At
		t.prune(ctx) // by age, also where others take the snapshots
		return true, nil
	case shareWait:
		t.wait(ctx, claim, v.known, until)
		return false, nil
	case shareClaim:
		return t.claimed(ctx)
	}
	m, err := t.take(ctx)
	if err == nil && t.claims != nil {
		t.note(ctx, m)
	}
	return err == nil, err
}

// ask asks etcd for the claim and for the last snapshot.
func (t *takerTurn) ask(ctx context.Context) (claim etcdops.Claim, last etcdops.Taken, err error) {
	if t.claims == nil {
		if t.claims, err = t.open(ctx); err != nil {
			return claim, last, err
		}
	}
	// The claim first: what its holder did before it gave it back is noted by then.
	if claim, err = t.claims.Look(ctx, snapshotClaim); err == nil {
		last, err = t.claims.LastTaken(ctx)
	}
	if err != nil {
		t.close() // the CA bundle may have changed
	}
	return claim, last, err
}

// blindPause is the pause between two looks at an etcd that does not answer.
const blindPause = 5 * time.Second

// wait returns when it is time for another look.
func (t *takerTurn) wait(ctx context.Context, claim etcdops.Claim, known bool, until time.Time) {
	if !known {
		sleepUntil(ctx, earliest(until, time.Now().Add(blindPause)))
		return
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	t.claims.Changed(ctx, claim)
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// claimed takes the snapshot with the claim, if this host is the first to claim it.
func (t *takerTurn) claimed(ctx context.Context) (done bool, err error) {
	claim, err := t.claims.Take(ctx, snapshotClaim, t.share.self, t.ttl)
	if err != nil {
		t.refused = time.Now()
		t.log.Warn("no claim to the snapshot", "error", err)
		return false, nil // the next look decides
	}
	if claim.Holder != t.share.self {
		return false, nil
	}
	keep, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		t.keep(keep, claim)
	}()
	m, err := t.take(ctx)
	if err == nil {
		t.note(ctx, m)
	}
	stop()
	<-kept
	// The host's own time may be over, the cluster's is not.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.ttl)
	defer cancel()
	if releaseErr := t.claims.Release(last, claim); releaseErr != nil {
		t.log.Warn("the claim of the snapshot was not given back; it lapses by itself", "within", t.ttl, "error", releaseErr)
	}
	return err == nil, err
}

// keep renews the claim until ctx is done. One that is lost ends nothing: another
// host may take a snapshot, too.
func (t *takerTurn) keep(ctx context.Context, claim etcdops.Claim) {
	for sleepUntil(ctx, time.Now().Add(t.ttl/3)) {
		if err := t.claims.Renew(ctx, claim); errors.Is(err, etcdops.ErrClaimLost) {
			t.log.Warn("another host may take the snapshot as well", "because", err)
			return
		}
	}
}

// note tells the other hosts.
func (t *takerTurn) note(ctx context.Context, m etcdops.Manifest) {
	if err := t.claims.NoteTaken(ctx, etcdops.TakenOf(m, t.spec.Snapshots.Destination), time.Now()); err != nil {
		t.log.Warn("the other hosts are not told of the snapshot: they may take one, too", "error", err)
	}
}

// tell logs what is done, once.
func (t *takerTurn) tell(act shareAct, reason string, problem error) {
	line := fmt.Sprint(act, reason)
	if line == t.told {
		return
	}
	t.told = line
	attrs := []any{"step", string(act), "because", reason}
	if problem != nil {
		t.log.Warn("scheduled snapshot", append(attrs, "error", problem)...)
		return
	}
	t.log.Info("scheduled snapshot", attrs...)
}
