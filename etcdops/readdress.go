package etcdops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A member whose host gets another address stays the same member: the cluster is
// told a second peer URL before the host moves, and forgets the first one when the
// member answers at the second. So at no moment do the others look for it where it
// is not. It takes the quorum twice, and no data is copied.

// AddressStep is what comes next for a member whose peer URL is not the fleet's.
type AddressStep string

const (
	// AddressAdd: the cluster is told the new peer URL beside the old one.
	AddressAdd AddressStep = "add"
	// AddressMove: the host has to listen there; nodeagent there has it do so.
	AddressMove AddressStep = "move"
	// AddressDone: the cluster knows it at the fleet's peer URL alone.
	AddressDone AddressStep = "done"
)

// ErrNotReaddressed is the error of a change of a member's address that is refused.
var ErrNotReaddressed = errors.New("the member's address is not changed")

// NextAddress decides what comes next, by the cluster's list of members. Members
// change their address one at a time: while one is on its way no other begins, and
// none begins while another voter does not serve. It is pure. What ends the move,
// that the member answers at its new URL, is asked of the member.
func NextAddress(v View, host string) (AddressStep, MemberView, error) {
	m, found := v.member(host)
	if !found || m.Fleet == nil || !m.Listed || !m.Started {
		return "", m, fmt.Errorf("%w: %q is no member of the cluster that has started", ErrNotReaddressed, host)
	}
	if slices.Equal(m.PeerURLs, []string{m.Fleet.PeerURL}) {
		return AddressDone, m, nil
	}
	if !v.Quorum {
		return "", m, fmt.Errorf("%w: %s is known at %s, it is to be at %s, and without a quorum the cluster changes no member (%d of %d serve): bring members back at their old addresses, or restore a snapshot on all (`nodeagent snapshot restore`), which takes today's",
			ErrNotReaddressed, host, strings.Join(m.PeerURLs, ", "), m.Fleet.PeerURL, v.Serving, v.Voters)
	}
	if slices.Contains(m.PeerURLs, m.Fleet.PeerURL) {
		return AddressMove, m, nil
	}
	for _, other := range v.listed() {
		switch {
		case other.id == m.id:
		case len(other.PeerURLs) > 1 && other.Fleet != nil:
			return "", m, fmt.Errorf("%w: %s is on its way from one address to the other, and members move one at a time", ErrNotReaddressed, other.Name)
		case other.Votes() && !other.Serves():
			return "", m, fmt.Errorf("%w: %s does not serve, and %s moves when all others do: mend that first", ErrNotReaddressed, other.Name, host)
		case !other.Started || other.Learner:
			return "", m, fmt.Errorf("%w: %s is joining just now", ErrNotReaddressed, other.Name)
		}
	}
	for _, other := range v.listed() {
		if other.id != m.id && slices.Contains(other.PeerURLs, m.Fleet.PeerURL) {
			return "", m, fmt.Errorf("%w: %s is known at %s: hosts that exchange their addresses take another one in between", ErrNotReaddressed, other.Name, m.Fleet.PeerURL)
		}
	}
	return AddressAdd, m, nil
}

// Readdressed is what the change of a member's address came to.
type Readdressed struct {
	Host string `json:"host"`
	// From and To are peer URLs; equal where there was nothing to do.
	From []string      `json:"from"`
	To   string        `json:"to"`
	Took time.Duration `json:"took"`
}

// ReaddressOptions says how a member's address is changed.
type ReaddressOptions struct {
	Host string
	// Peer is the certificate with which the member is asked on its peer port.
	Peer TLS
	// Patience is how long the host may take to listen at its new address. With
	// none the move is announced, or ended where the host listens there, and not
	// waited for.
	Patience time.Duration
	// Holds: the caller holds etcd's turn already.
	Holds bool
}

// Readdress announces the new address of a member, waits until it listens there,
// and has the cluster forget the old one. Killed anywhere, the same call goes on,
// from any host.
func Readdress(ctx context.Context, site Site, opts ReaddressOptions, told Told) (done Readdressed, err error) {
	began := time.Now()
	v := Look(ctx, site, false)
	step, m, err := NextAddress(v, opts.Host)
	if err != nil {
		return Readdressed{}, err
	}
	done = Readdressed{Host: opts.Host, From: m.PeerURLs, To: m.Fleet.PeerURL}
	if step == AddressDone {
		return done, nil
	}
	if !opts.Holds {
		var release func() error
		if ctx, release, err = takeTurn(ctx, site, v, "etcd readdress "+opts.Host, told); err != nil {
			return done, err
		}
		// The host's own restart needs the turn: it is given back before the wait.
		err = readdressOnce(ctx, site, opts, told)
		if err = errors.Join(causeOf(ctx, err), release()); err != nil {
			return done, err
		}
		ctx = context.WithoutCancel(ctx)
	} else if err = readdressOnce(ctx, site, opts, told); err != nil {
		return done, err
	}
	err = awaitMove(ctx, site, opts, told)
	done.Took = time.Since(began)
	return done, err
}

// readdressOnce does what can be done now.
func readdressOnce(ctx context.Context, site Site, opts ReaddressOptions, told Told) error {
	step, m, err := NextAddress(Look(ctx, site, false), opts.Host)
	if err != nil {
		return err
	}
	if step == AddressAdd {
		told.say("add", "the cluster finds %s at %s as well", m.Name, m.Fleet.PeerURL)
		if err := updateMember(ctx, site, m, append(slices.Clone(m.PeerURLs), m.Fleet.PeerURL)); err != nil {
			return err
		}
		step = AddressMove
	}
	if step == AddressMove && listensThere(ctx, opts.Peer, m) {
		told.say("forget", "%s answers there; the cluster forgets its other addresses", m.Name)
		return updateMember(ctx, site, m, []string{m.Fleet.PeerURL})
	}
	return nil
}

// awaitMove waits until the member listens at its new address, and ends the move.
func awaitMove(ctx context.Context, site Site, opts ReaddressOptions, told Told) error {
	said := false
	tick := time.NewTicker(replacePause)
	defer tick.Stop()
	for deadline := time.Now().Add(opts.Patience); ; {
		step, m, err := NextAddress(Look(ctx, site, false), opts.Host)
		switch {
		case err == nil && step == AddressDone:
			return nil
		case err == nil && step == AddressMove && listensThere(ctx, opts.Peer, m):
			err = readdressOnce(ctx, site, opts, told)
		case err == nil && opts.Patience == 0:
			return nil // announced; whoever comes next ends it
		}
		if err != nil && (opts.Patience == 0 || time.Now().After(deadline)) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w yet: %s does not listen at %s: apply the fleet there; the same command goes on", ErrNotReaddressed, m.Name, m.Fleet.PeerURL)
		}
		if !said {
			told.say("move", "waiting for nodeagent on %s to have its etcd listen there", opts.Host)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// listensThere tells whether this very member answers at the fleet's peer URL: the
// list that it answers with has its own id at that URL.
func listensThere(ctx context.Context, peer TLS, m MemberView) bool {
	a, err := askPeer(ctx, peer, *m.Fleet)
	return err == nil && a.State == PeerServes && slices.ContainsFunc(a.Members, func(p PeerMember) bool {
		return p.ID == m.id && slices.Contains(p.PeerURLs, m.Fleet.PeerURL)
	})
}

// AtHome tells whether the host's own member, asked on its peer port, is known to
// its cluster at its peer URL alone. One that does not answer, or has yet to
// begin, is where it is.
func AtHome(ctx context.Context, peer TLS, self Member) bool {
	a, err := askPeer(ctx, peer, self)
	if err != nil || a.State != PeerServes {
		return true
	}
	i := slices.IndexFunc(a.Members, func(m PeerMember) bool { return m.Name == self.Name })
	return i < 0 || slices.Equal(a.Members[i].PeerURLs, []string{self.PeerURL})
}

func updateMember(ctx context.Context, site Site, m MemberView, urls []string) error {
	r := replacer{site: site}
	err := r.ask(ctx, func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.MemberUpdate(ctx, m.id, urls)
		return err
	})
	if errors.Is(err, rpctypes.ErrPeerURLExist) { // asked again after an answer that was lost
		err = nil
	}
	if err != nil {
		return fmt.Errorf("have the cluster find %s at %s: %w", m.Name, strings.Join(urls, ", "), err)
	}
	return nil
}
