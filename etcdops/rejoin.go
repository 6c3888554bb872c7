package etcdops

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// RejoinPlan is what has to be done so that a host joins the cluster that its
// fleet has now.
type RejoinPlan struct {
	Host string `json:"host"`
	// Data is the folder that is put aside as Aside; both are empty where there is
	// none. Own is the id of its cluster.
	Data  string `json:"data,omitempty"`
	Aside string `json:"aside,omitempty"`
	Own   string `json:"own,omitempty"`
	// Cluster is the id of the one that is joined, and From who serves it.
	Cluster string `json:"cluster"`
	From    string `json:"from"`
}

// ErrNotRejoined is the error of a host whose data stays.
var ErrNotRejoined = errors.New("the data stays where it is")

// PlanRejoin decides whether this host's data may be put aside, so that it joins
// without. Only data whose cluster was replaced by the one that serves may: data of
// the same cluster is a member's, and that of another one may be the right one.
func (s *Starter) PlanRejoin(ctx context.Context, now time.Time) (RejoinPlan, error) {
	plan, err := s.planRejoin(ctx, now)
	if err != nil {
		return RejoinPlan{}, fmt.Errorf("rejoin: %w", err)
	}
	return plan, nil
}

func (s *Starter) planRejoin(ctx context.Context, now time.Time) (RejoinPlan, error) {
	if interrupted, err := RestoreInProgress(s.Root); err != nil || interrupted {
		return RejoinPlan{}, errors.Join(err, ErrRestoreInterrupted)
	}
	standing, err := s.standing()
	if err != nil {
		return RejoinPlan{}, err
	}
	answers := AskPeers(ctx, s.Peer, s.others())
	askReplaced(ctx, s.Client, standing.Cluster, answers)
	return decideRejoin(s.Root, standing, answers, now)
}

// decideRejoin is pure but for the name that the folder gets.
func decideRejoin(root layout.Root, s Standing, answers []PeerAnswer, now time.Time) (RejoinPlan, error) {
	plan := RejoinPlan{Host: s.Self.Name}
	var serves *PeerAnswer
	for i, a := range answers {
		if a.State != PeerServes {
			continue
		}
		if serves != nil && serves.ClusterID != a.ClusterID {
			return plan, fmt.Errorf("%w: %s and %s serve different clusters, %s and %s: stop the wrong one first", ErrNotRejoined, serves.Member.Name, a.Member.Name, serves.ClusterID, a.ClusterID)
		}
		serves = &answers[i]
	}
	if serves == nil {
		return plan, fmt.Errorf("%w: no other host serves a cluster that this one could join", ErrNotRejoined)
	}
	plan.Cluster, plan.From = serves.ClusterID, serves.Member.Name
	if !s.Data {
		return plan, nil
	}
	plan.Own, plan.Data, plan.Aside = s.Cluster, root.EtcdData(), asideName(root.EtcdData(), keptByRejoin, now)
	switch {
	case s.Cluster == serves.ClusterID:
		return plan, fmt.Errorf("%w: it is of the cluster %s that %s serves; a member that is ill is replaced instead (`nodeagent etcd replace %s`)", ErrNotRejoined, s.Cluster, serves.Member.Name, s.Self.Name)
	case replacedBy(s.Cluster, answers) == nil:
		return plan, fmt.Errorf("%w: it is of the cluster %s, and that of %s, %s, does not say that it has taken its place: find out which one is the right one, and rename %q aside yourself if it is the other",
			ErrNotRejoined, s.Cluster, serves.Member.Name, serves.ClusterID, root.EtcdData())
	}
	return plan, nil
}

// PutAside stops etcd and renames its data aside, where it is kept. It can be
// repeated. What comes then is [Replace], which gives the host its place.
func (p RejoinPlan) PutAside(ctx context.Context, root layout.Root, units Units, told Told) (err error) {
	if p.Data == "" {
		return nil
	}
	release, err := Lock(restoreLock(root))
	if err != nil {
		return fmt.Errorf("rejoin: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	told.say("stop", "stopping %s", layout.Etcd)
	if err := units.Stop(ctx, layout.Etcd); err != nil {
		return fmt.Errorf("rejoin: stop %s: %w", layout.Etcd, err)
	}
	if now, _, err := dataCluster(p.Data); err != nil || now != p.Own {
		return errors.Join(fmt.Errorf("rejoin: %q is not what it was when this was planned: try again", p.Data), err)
	}
	busy, err := held(filepath.Join(p.Data, "member", "snap", "db"))
	if err != nil {
		return fmt.Errorf("rejoin: see whether etcd has stopped: %w", err)
	}
	if busy {
		return fmt.Errorf("rejoin: a process still has %q open although etcd was stopped: stop it", p.Data)
	}
	told.say("aside", "its data of the cluster %s is kept in %s", p.Own, p.Aside)
	if err := rename(p.Data, p.Aside); err != nil {
		return err
	}
	return noteFence(root, nil)
}
