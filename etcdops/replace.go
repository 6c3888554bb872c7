package etcdops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ReplaceStep is what comes next in the replacement of a member.
type ReplaceStep string

const (
	// ReplaceRemove: the dead member goes out of the cluster.
	ReplaceRemove ReplaceStep = "remove"
	// ReplaceAdd: the cluster gets a place for a learner at the host's peer URL.
	ReplaceAdd ReplaceStep = "add"
	// ReplaceStart: the host has to start it; nodeagent there does so by itself.
	ReplaceStart ReplaceStep = "start"
	// ReplaceCatchUp: it gets the data.
	ReplaceCatchUp ReplaceStep = "catch-up"
	// ReplacePromote: it gets its vote.
	ReplacePromote ReplaceStep = "promote"
	// ReplaceDone: it is a voting member in step.
	ReplaceDone ReplaceStep = "done"
)

// ErrNotReplaced is the error of a replacement that is refused.
var ErrNotReplaced = errors.New("the member is not replaced")

// NextReplace decides what comes next, by the cluster alone: the cluster's own
// list of members is the record of how far a replacement has come, so whoever
// goes on with it, on whichever host, needs nothing else. It is pure.
func NextReplace(v View, host string) (ReplaceStep, MemberView, error) {
	refuse := func(format string, args ...any) (ReplaceStep, MemberView, error) {
		return "", MemberView{}, fmt.Errorf("%w: %s", ErrNotReplaced, fmt.Sprintf(format, args...))
	}
	m, found := v.member(host)
	if !found || m.Fleet == nil {
		return refuse("the fleet has no host %q with the role etcd", host)
	}
	if !v.Quorum {
		return refuse("there is no quorum, so the cluster can change no member (%d of %d serve): bring members back, or restore a snapshot on all (`nodeagent snapshot restore`)", v.Serving, v.Voters)
	}
	if m.OtherCluster != "" {
		return refuse("an etcd of another cluster, %s, runs on %s: `nodeagent etcd rejoin` there puts its data aside", m.OtherCluster, host)
	}
	if !m.Listed {
		for _, other := range v.listed() {
			if other.Learner || !other.Started {
				return refuse("%s is joining just now, and members join one at a time: `nodeagent etcd replace %s` first", other.Name, other.Name)
			}
		}
		return ReplaceAdd, m, nil
	}
	atHome := slices.Contains(m.PeerURLs, m.Fleet.PeerURL)
	switch {
	case !m.Started && !atHome:
		return ReplaceRemove, m, nil // its place is at an address that it has no more
	case !m.Started:
		return ReplaceStart, m, nil
	case m.Answers && !atHome:
		return refuse("%s answers, at %v instead of the fleet's %s: stop it there first (systemctl stop nodeagent-etcd) and rename its data folder aside", host, m.PeerURLs, m.Fleet.PeerURL)
	case m.Answers && m.Learner && m.InStep():
		return ReplacePromote, m, nil
	case m.Answers && m.Learner:
		return ReplaceCatchUp, m, nil
	case m.Answers && m.Serves():
		return ReplaceDone, m, nil
	case m.Answers:
		return refuse("%s answers; a member that is ill but there is looked at first (`nodeagent etcd status`)", host)
	case m.Learner:
		// One that joined a moment ago and is restarted, most likely: it harms no
		// quorum, and if it were removed its data would have to be, too.
		return ReplaceCatchUp, m, nil
	}
	return ReplaceRemove, m, nil
}

// ReplaceOptions says how a member is replaced.
type ReplaceOptions struct {
	Host string
	// Silence is for how long the old member must not have answered before it is
	// removed; 10 s by default. One that is only restarted answers again.
	Silence time.Duration
	// Patience is how long the host may take to start its new member, and that
	// one to catch up; 30 minutes by default.
	Patience time.Duration
	// Peer, if set, is the certificate of etcd's peers, with which the old member
	// is asked on its peer port as well.
	Peer TLS
	// after, if set, is called after each step; for tests.
	after func(ReplaceStep)
}

// Replaced is what a replacement did.
type Replaced struct {
	Host string `json:"host"`
	// Removed and Added are the ids of the old and the new member, empty where
	// that was done before.
	Removed string        `json:"removed,omitempty"`
	Added   string        `json:"added,omitempty"`
	Took    time.Duration `json:"took"`
}

// Replace takes the steps that NextReplace decides until the host's member is a
// voting one in step. Killed anywhere, the same call goes on, from any host.
func Replace(ctx context.Context, site Site, opts ReplaceOptions, told Told) (done Replaced, err error) {
	opts = opts.defaults()
	began := time.Now()
	v := Look(ctx, site, false)
	if _, _, err := NextReplace(v, opts.Host); err != nil {
		return Replaced{}, err
	}
	ctx, release, err := takeTurn(ctx, site, v, "etcd replace "+opts.Host, told)
	if err != nil {
		return Replaced{}, err
	}
	defer func() { err = errors.Join(causeOf(ctx, err), release()) }()
	r := replacer{site: site, opts: opts, told: told, done: Replaced{Host: opts.Host}, removed: map[uint64]bool{}}
	err = r.run(ctx)
	r.done.Took = time.Since(began)
	return r.done, err
}

func (o ReplaceOptions) defaults() ReplaceOptions {
	if o.Silence == 0 {
		o.Silence = 10 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 30 * time.Minute
	}
	if o.after == nil {
		o.after = func(ReplaceStep) {}
	}
	return o
}

// replacer is one replacement under way.
type replacer struct {
	site    Site
	opts    ReplaceOptions
	told    Told
	done    Replaced
	waits   ReplaceStep     // what is being waited for
	since   time.Time       // and since when
	removed map[uint64]bool // the members that this replacement has removed
}

// replacePause is the pause between two looks while something is waited for.
const replacePause = 300 * time.Millisecond

func (r *replacer) run(ctx context.Context) error {
	tick := time.NewTicker(replacePause)
	defer tick.Stop()
	for {
		step, m, err := NextReplace(Look(ctx, r.site, false), r.opts.Host)
		if err != nil && (r.waits == "" || ctx.Err() != nil) {
			return err
		}
		if err == nil {
			finished, err := r.take(ctx, step, m)
			if err != nil || finished {
				return err
			}
		}
		if r.waits != "" && time.Since(r.since) > r.opts.Patience {
			return r.givenUp(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// givenUp says what did not happen in time.
func (r *replacer) givenUp(err error) error {
	remedy := "start nodeagent on " + r.opts.Host + " (its etcd data folder has to be empty)"
	if r.waits == ReplaceCatchUp {
		remedy = "see how its etcd is there (nodeagent status)"
	}
	return errors.Join(fmt.Errorf("%w yet: waited %s for %s: %s; the same command goes on", ErrNotReplaced, r.opts.Patience, r.waits, remedy), err)
}

// take takes one step. Steps that something is to be waited for are only told,
// once.
func (r *replacer) take(ctx context.Context, step ReplaceStep, m MemberView) (finished bool, err error) {
	switch step {
	case ReplaceRemove:
		if m.Started && r.waits != "" {
			// The new member has started and does not answer for the moment: it is
			// waited for, not removed again.
			return false, nil
		}
		err = r.remove(ctx, m)
	case ReplaceAdd:
		err = r.add(ctx, m)
	case ReplacePromote:
		err = r.promote(ctx, m)
	case ReplaceStart, ReplaceCatchUp:
		if m.Started && !m.Answers && r.lost(ctx, m) {
			r.told.say("remove", "%s has lost its data again", m.Name)
			return false, r.remove(ctx, m)
		}
		r.wait(step, m)
		return false, nil
	case ReplaceDone:
		r.told.say("done", "%s is a voting member in step", m.Name)
		return true, nil
	}
	if err == nil {
		r.opts.after(step)
	}
	return false, err
}

func (r *replacer) wait(step ReplaceStep, m MemberView) {
	if r.waits == step {
		return
	}
	r.waits, r.since = step, time.Now()
	if step == ReplaceStart {
		r.told.say("start", "waiting for nodeagent on %s to start its member %s", r.opts.Host, m.ID)
	} else {
		r.told.say("catch-up", "%s gets the data", m.Name)
	}
	r.opts.after(step)
}

// lost tells whether nodeagent says on the learner's peer port that the host has
// no data.
func (r *replacer) lost(ctx context.Context, m MemberView) bool {
	if r.opts.Peer == (TLS{}) || m.Fleet == nil {
		return false
	}
	a, err := askPeer(ctx, r.opts.Peer, *m.Fleet)
	return err == nil && (a.State == PeerEmpty || a.State == PeerLost)
}

func (r *replacer) remove(ctx context.Context, m MemberView) error {
	if m.Started && !m.Learner && !r.removed[m.id] {
		if err := r.confirmSilence(ctx, m); err != nil {
			return err
		}
	}
	r.removed[m.id] = true
	r.told.say("remove", "%s, member %s", m.Name, m.ID)
	err := r.ask(ctx, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberRemove(ctx, m.id)
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove member %s of %s: %w", m.ID, m.Name, err)
	}
	r.done.Removed = m.ID
	return nil
}

// confirmSilence makes sure that the member is not only being restarted: it may
// answer at no time for a while, at its client port or at its peer port.
func (r *replacer) confirmSilence(ctx context.Context, m MemberView) error {
	r.told.say("remove", "making sure for %s that %s does not answer", r.opts.Silence, m.Name)
	tick := time.NewTicker(max(r.opts.Silence/10, replacePause))
	defer tick.Stop()
	for deadline := time.Now().Add(r.opts.Silence); ; {
		step, now, err := NextReplace(Look(ctx, r.site, false), r.opts.Host)
		if err != nil {
			return err
		}
		if step != ReplaceRemove || now.id != m.id {
			return fmt.Errorf("%w: %s answers again", ErrNotReplaced, m.Name)
		}
		if r.opts.Peer != (TLS{}) {
			for _, url := range m.PeerURLs {
				if a, err := askPeer(ctx, r.opts.Peer, Member{Name: m.Name, PeerURL: url}); err == nil && a.State != PeerEmpty && a.State != PeerLost && a.State != PeerHeld {
					return fmt.Errorf("%w: etcd runs on %s, it answers at %s: stop it there first (systemctl stop nodeagent-etcd) and rename its data folder aside", ErrNotReplaced, m.Name, url)
				}
			}
		}
		if time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (r *replacer) add(ctx context.Context, m MemberView) error {
	r.told.say("add", "a place for %s as a learner at %s", m.Name, m.Fleet.PeerURL)
	err := r.ask(ctx, func(ctx context.Context, client *clientv3.Client) error {
		answer, err := client.MemberAddAsLearner(ctx, []string{m.Fleet.PeerURL})
		if err == nil {
			r.done.Added = idText(answer.Member.ID)
		}
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrPeerURLExist) {
		return fmt.Errorf("add %s as a learner: %w", m.Name, err)
	}
	return nil
}

// promote gives the learner its vote. While the leader finds that it has not
// caught up yet it is waited for.
func (r *replacer) promote(ctx context.Context, m MemberView) error {
	err := r.ask(ctx, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberPromote(ctx, m.id)
		return err
	})
	switch {
	case errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
		r.wait(ReplaceCatchUp, m)
		return nil
	case errors.Is(err, rpctypes.ErrMemberNotLearner):
		return nil
	case err != nil:
		return fmt.Errorf("promote %s: %w", m.Name, err)
	}
	r.told.say("promote", "%s has its vote", m.Name)
	return nil
}

// passingTime is how long what passes may last: etcd refuses to change its
// members while some have been connected to each other for less than five
// seconds, and loses what it is asked while the lead changes.
const passingTime = 30 * time.Second

// passing tells whether an error is one of those. Whether what was asked has
// happened is then not known; asked again, it is an error of its own.
func passing(err error) bool {
	for _, known := range []error{
		rpctypes.ErrUnhealthy, rpctypes.ErrLeaderChanged, rpctypes.ErrNoLeader, rpctypes.ErrTimeout,
		rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// ask speaks to a member that serves, again while the reason that it fails for
// may pass.
func (r *replacer) ask(ctx context.Context, f func(context.Context, *clientv3.Client) error) error {
	tick := time.NewTicker(replacePause)
	defer tick.Stop()
	for deadline := time.Now().Add(passingTime); ; {
		err := r.askOnce(ctx, f)
		if !passing(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (r *replacer) askOnce(ctx context.Context, f func(context.Context, *clientv3.Client) error) (err error) {
	v := Look(ctx, r.site, false)
	client, err := connectAny(ctx, r.site.TLS, v)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return f(ctx, client)
}
