package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// A cluster that was brought into being by a restore says in its own data whose
// place it has taken: a host that was off meanwhile, and comes back with the old
// data, asks and does not start. Otherwise two such hosts could have a quorum of
// what is no longer the cluster.

// replacedPrefix is where the ids of those clusters lie, each a key.
const replacedPrefix = "/nodeagent/replaced/"

// ErrReplaced is the error of a host whose data is of a cluster that another one
// has taken the place of.
var ErrReplaced = errors.New("its cluster has been replaced")

// noteReplaced says in the new cluster whose place it has taken. Where the fleet
// has no other host nobody can come back.
func noteReplaced(ctx context.Context, p RestorePlan) (err error) {
	if len(p.Replaces) == 0 || len(p.Others) < 2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	client, err := connect(ctx, p.TLS, p.Endpoint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	var puts []clientv3.Op
	for _, id := range p.Replaces {
		puts = append(puts, clientv3.OpPut(replacedPrefix+id, p.Host+" restored "+p.ClusterID))
	}
	if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
		return fmt.Errorf("note in etcd that it took the place of %s: %w", strings.Join(p.Replaces, ", "), err)
	}
	return nil
}

// hasReplaced asks a member whether its cluster has taken the place of another
// one. The member's own data are enough for an answer.
func hasReplaced(ctx context.Context, files TLS, endpoint, id string) (_ bool, err error) {
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := client.Get(ctx, replacedPrefix+id, clientv3.WithSerializable(), clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("ask etcd %s whose place it has taken: %w", endpoint, err)
	}
	return answer.Count > 0, nil
}

// askReplaced asks those that serve another cluster than the own data's.
func askReplaced(ctx context.Context, files TLS, own string, answers []PeerAnswer) {
	for i, a := range answers {
		if a.State == PeerServes && a.ClusterID != own && files != (TLS{}) {
			// One that cannot answer is no evidence.
			answers[i].Replaced, _ = hasReplaced(ctx, files, a.Member.ClientURL, own)
		}
	}
}

// replacedBy is the answer of a host whose cluster has taken the place of the own
// data's, nil if there is none. It is pure.
func replacedBy(own string, answers []PeerAnswer) *PeerAnswer {
	i := slices.IndexFunc(answers, func(a PeerAnswer) bool { return a.State == PeerServes && a.ClusterID != own && a.Replaced })
	if i < 0 {
		return nil
	}
	return &answers[i]
}

// Replaced tells whether another host serves a cluster that has taken the place of
// the one whose data this host holds: then its etcd must not run. It is nil where
// that is not known, or where there is no data.
func (s *Starter) Replaced(ctx context.Context) error {
	standing, err := s.standing()
	if err != nil || !standing.Data || standing.Cluster == "" {
		return nil // nothing is known that speaks against it
	}
	answers := AskPeers(ctx, s.Peer, s.others())
	askReplaced(ctx, s.Client, standing.Cluster, answers)
	return replacedError(standing, answers)
}

// Fence notes whether this host's cluster was replaced, for systemd to heed, and
// returns the error that says so.
func (s *Starter) Fence(ctx context.Context) error {
	replaced := s.Replaced(ctx)
	return errors.Join(replaced, noteFence(s.Root, replaced))
}

// noteFence writes the file that keeps systemd from starting etcd, or removes it.
func noteFence(root layout.Root, replaced error) error {
	if replaced == nil {
		if err := atomicfile.Remove(root.EtcdReplaced()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("let etcd start: %w", err)
		}
		return nil
	}
	if err := atomicfile.Write(root.EtcdReplaced(), []byte(replaced.Error()+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep etcd from being started: %w", err)
	}
	return nil
}

func replacedError(s Standing, answers []PeerAnswer) error {
	by := replacedBy(s.Cluster, answers)
	if by == nil {
		return nil
	}
	return fmt.Errorf("%w: %w: this host holds data of the cluster %s, and %s serves the cluster %s, which was restored in its place. "+
		"`nodeagent etcd rejoin` puts this data aside and joins that one", ErrHeld, ErrReplaced, s.Cluster, by.Member.Name, by.ClusterID)
}
