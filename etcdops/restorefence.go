package etcdops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OtherState is what another host's etcd looks like to one that is about to
// bring data into being beside it.
type OtherState string

const (
	// OtherStopped: its host answers, and no etcd runs there.
	OtherStopped OtherState = "stopped"
	// OtherSame: etcd runs there with the cluster that this host is to have, too.
	OtherSame OtherState = "same"
	// OtherAlive: etcd, or what cannot be told from it, runs there.
	OtherAlive OtherState = "alive"
	// OtherSilent: nothing answers. Whether etcd runs there is not known.
	OtherSilent OtherState = "silent"
)

// Other is another host as it was seen.
type Other struct {
	Member Member     `json:"member"`
	State  OtherState `json:"state"`
	Detail string     `json:"detail,omitempty"`
}

// ErrFenced is the error of a restore that could make a second cluster.
var ErrFenced = errors.New("another etcd could serve beside the restored one")

// lookAtOthers asks all of them at once. The id is of the cluster that this host
// is to have. The peer certificate may be the zero value, then only the clients'
// ports are asked.
func lookAtOthers(ctx context.Context, client, peer TLS, others []Member, id string) []Other {
	seen := make([]Other, len(others))
	var wait sync.WaitGroup
	for i, m := range others {
		wait.Go(func() {
			seen[i] = lookAtOther(ctx, client, peer, m, id)
			seen[i].Member = m
		})
	}
	wait.Wait()
	return seen
}

// settling is for how long a host is asked again whose etcd listens and says
// nothing of use. One that is being started or stopped is so for a moment, and
// hosts of a fleet are restored at the same time.
const settling = 10 * time.Second

func lookAtOther(ctx context.Context, client, peer TLS, m Member, id string) Other {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for began := time.Now(); ; {
		o, sure := lookAtOtherOnce(ctx, client, peer, m, id)
		if sure || time.Since(began) > settling {
			return o
		}
		select {
		case <-ctx.Done():
			return o
		case <-ticker.C:
		}
	}
}

// lookAtOtherOnce tells also whether what it saw is more than a moment's.
func lookAtOtherOnce(ctx context.Context, client, peer TLS, m Member, id string) (_ Other, sure bool) {
	doors := make([]doorState, 2)
	var wait sync.WaitGroup
	for i, address := range []string{m.PeerURL, m.ClientURL} {
		wait.Go(func() { doors[i] = knock(ctx, address) })
	}
	wait.Wait()
	if peer != (TLS{}) && doors[0] == doorOpen {
		switch a, err := askPeer(ctx, peer, m); {
		case err != nil:
			return Other{State: OtherAlive, Detail: fmt.Sprintf("something listens on its peer port and says nothing of use: %s", firstLine(err.Error()))}, false
		case a.State == PeerEmpty || a.State == PeerLost || a.State == PeerHeld:
			return Other{State: OtherStopped, Detail: "nodeagent waits there"}, true
		case a.ClusterID == id:
			return Other{State: OtherSame, Detail: "it runs in the cluster " + id}, true
		default:
			return Other{State: OtherAlive, Detail: "it runs in the cluster " + a.ClusterID}, true
		}
	}
	if doors[1] == doorOpen {
		status, err := askOnce(ctx, client, m.ClientURL)
		switch {
		case err != nil:
			return Other{State: OtherAlive, Detail: fmt.Sprintf("something listens on %s: %s", m.ClientURL, firstLine(err.Error()))}, false
		case idText(status.Header.GetClusterId()) == id:
			return Other{State: OtherSame, Detail: "it runs in the cluster " + id}, true
		}
		return Other{State: OtherAlive, Detail: "it runs in the cluster " + idText(status.Header.GetClusterId())}, true
	}
	switch {
	case doors[0] == doorOpen:
		return Other{State: OtherAlive, Detail: "something listens on its peer port"}, true
	case slices.Contains(doors, doorClosed):
		return Other{State: OtherStopped}, true
	}
	return Other{State: OtherSilent}, true
}

// doorState is what a host's port says to a connection.
type doorState int

const (
	doorSilent doorState = iota // nothing, or the way there is closed
	doorClosed                  // the host answers that nobody listens
	doorOpen
)

func knock(ctx context.Context, address string) doorState {
	u, err := url.Parse(address)
	if err != nil {
		return doorSilent
	}
	connection, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "tcp", u.Host)
	switch {
	case err == nil:
		connection.Close()
		return doorOpen
	case errors.Is(err, unix.ECONNREFUSED):
		return doorClosed
	}
	return doorSilent
}

// judgeFence decides whether data may come into being on this host without
// there being two clusters. A host whose etcd runs in another cluster is in the
// way whatever somebody says; of one that says nothing somebody has to say that
// its etcd is off, and stays off until it has been restored as well. It is pure.
func judgeFence(others []Other, fenced []string) error {
	var alive, silent []string
	for _, o := range others {
		switch {
		case o.State == OtherAlive:
			alive = append(alive, fmt.Sprintf("%s still answers (%s)", o.Member.Name, o.Detail))
		case o.State == OtherSilent && !slices.Contains(fenced, o.Member.Name):
			silent = append(silent, o.Member.Name)
		}
	}
	var failed []error
	if len(alive) > 0 {
		failed = append(failed, fmt.Errorf("%w: etcd of %s: stop it on every host of the fleet before restoring any (systemctl stop nodeagent nodeagent-etcd)", ErrFenced, strings.Join(alive, ", of ")))
	}
	if len(silent) > 0 {
		names := strings.Join(silent, ",")
		failed = append(failed, fmt.Errorf("%w: %s cannot be reached, so nobody knows whether etcd runs there: make sure that it is switched off, or that its etcd is stopped, and then say so: --fenced %s",
			ErrFenced, strings.Join(silent, ", "), names))
	}
	for _, name := range fenced {
		if !slices.ContainsFunc(others, func(o Other) bool { return o.Member.Name == name }) {
			failed = append(failed, fmt.Errorf("--fenced %s: the fleet has no other etcd host of that name", name))
		}
	}
	return errors.Join(failed...)
}

// fence looks at all other hosts, and refuses.
func (p *RestorePlan) fence(ctx context.Context) error {
	others := slices.DeleteFunc(slices.Clone(p.Others), func(m Member) bool { return m.Name == p.Host })
	seen := lookAtOthers(ctx, p.TLS, p.Peer, others, p.ClusterID)
	err := errors.Join(judgeFence(seen, p.Fenced), p.fenceFormer(ctx))
	if err != nil && p.aliveWithout(ctx) {
		err = errors.Join(err, fmt.Errorf("the others have a quorum: the cluster lives without this host, and `nodeagent etcd replace %s` brings its member back with all data", p.Host))
	}
	return err
}

// aliveWithout tells whether the cluster has a quorum without this host.
func (p *RestorePlan) aliveWithout(ctx context.Context) bool {
	v := Look(ctx, Site{TLS: p.TLS, Members: p.Others, Self: p.Host, Local: p.Endpoint}, false)
	self, _ := v.member(p.Host)
	serving := v.Serving
	if self.Serves() {
		serving--
	}
	return v.Quorum && serving >= quorum(v.Voters)
}

// fenceFormer looks for members that the snapshot knows at addresses which the
// fleet has no more: they may have been left running when hosts moved.
func (p *RestorePlan) fenceFormer(ctx context.Context) error {
	if p.Peer == (TLS{}) || p.Foreign {
		return nil
	}
	var former []Member
	for name, urls := range p.Snapshot.PeerURLs {
		for _, address := range urls {
			known := slices.ContainsFunc(p.Others, func(m Member) bool { return m.PeerURL == address })
			if u, err := url.Parse(address); name == p.Host || known || err != nil || u.Scheme != "https" {
				continue
			}
			former = append(former, Member{Name: name, PeerURL: address})
		}
	}
	slices.SortFunc(former, func(a, b Member) int { return strings.Compare(a.PeerURL, b.PeerURL) })
	var failed []error
	for _, a := range AskPeers(ctx, p.Peer, former) {
		if (a.State == PeerServes || a.State == PeerForms) && a.ClusterID != p.ClusterID {
			failed = append(failed, fmt.Errorf("%w: the snapshot's member %s answers at its former address %s, in the cluster %s: stop it there first", ErrFenced, a.Member.Name, a.Member.PeerURL, a.ClusterID))
		}
	}
	return errors.Join(failed...)
}
