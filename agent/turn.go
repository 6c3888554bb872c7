package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// A member of etcd is restarted in its turn: never while another one is, and
// never when the cluster would lose its quorum by it. API servers take turns,
// too, so that clients that know several always find one.
const (
	// serverClaim is the claim in etcd that a host holds while it restarts its
	// API server. etcd's is that of all operations on the cluster.
	serverClaim = "kube-apiserver-restart"
	// restartTime is for how long it is held at most; a host that dies in its
	// turn keeps the others waiting for so long.
	restartTime = 3 * time.Minute
	// turnPatience is how long a host waits for its turn before it says so and
	// tries again later.
	turnPatience = 10 * time.Minute
	// catchUpTime is how long a restarted member may take to be healthy again
	// before the next one has its turn all the same to ask.
	catchUpTime = time.Minute
)

// takeTurn waits until a unit may be restarted. What it returns gives the turn
// to the next host, once this one is healthy again.
func (h *Host) takeTurn(ctx context.Context, unit string) (func(), error) {
	spec := h.Spec()
	switch unit {
	case layout.Unit(layout.Etcd):
		if endpoints := etcdEndpoints(spec); len(endpoints) > 1 {
			return h.takeEtcdTurn(ctx, endpoints)
		}
	case layout.Unit(layout.APIServer):
		if slices.ContainsFunc(spec.Peers, func(p hosts.Peer) bool { return p.Has(hosts.RoleControlPlane) }) {
			return h.takeServerTurn(ctx)
		}
	}
	return func() {}, nil
}

// takeServerTurn waits until no other API server is restarted. Where etcd does
// not answer, none of them serves, and none has to wait.
func (h *Host) takeServerTurn(ctx context.Context) (func(), error) {
	claims, err := etcdops.OpenClaims(ctx, EtcdTLS(h.root), etcdEndpoints(h.Spec()))
	if err != nil {
		return func() {}, nil
	}
	claim, err := h.claimTurn(ctx, claims, serverClaim, layout.APIServer)
	if err != nil {
		if errors.Is(err, errTurnTaken) || ctx.Err() != nil {
			return nil, errors.Join(err, claims.Close())
		}
		return func() {}, claims.Close()
	}
	return func() {
		// Where the wait for the server was cut short the claim is left to lapse.
		err := context.Cause(ctx)
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, catchUpTime)
			defer cancel()
			err = claims.Release(ctx, claim)
		}
		if err = errors.Join(err, claims.Close()); err != nil {
			h.log.Warn("other hosts' API servers wait before they are restarted", "for", restartTime, "because", err)
		}
	}, nil
}

// takeEtcdTurn waits until this host's member may be restarted.
func (h *Host) takeEtcdTurn(ctx context.Context, endpoints []string) (func(), error) {
	if turn, err := h.askTurn(ctx, endpoints); err != nil || turn == turnFree {
		return func() {}, err
	}
	claims, err := etcdops.OpenClaims(ctx, EtcdTLS(h.root), endpoints)
	if err != nil {
		return nil, err
	}
	claim, err := h.claimTurn(ctx, claims, etcdops.TurnClaim, layout.Etcd)
	if err != nil {
		return nil, errors.Join(err, claims.Close())
	}
	end := func() { h.endTurn(claims, claim, endpoints) }
	// Much may have happened while others had their turn.
	if _, err := h.askTurn(ctx, endpoints); err != nil {
		end()
		return nil, err
	}
	if err := h.announceAddress(ctx); err != nil {
		end()
		return nil, fmt.Errorf("not restarted: %w", err)
	}
	return end, nil
}

// askTurn judges by what the members say now; what does not answer is judged
// as such.
func (h *Host) askTurn(ctx context.Context, endpoints []string) (permit, error) {
	health, _ := etcdops.AskHealth(ctx, EtcdTLS(h.root), endpoints)
	return judgeTurn(health, h.Spec().Name)
}

// errTurnTaken is the error of a host that has waited too long.
var errTurnTaken = errors.New("not restarted")

// claimTurn waits until this host holds a component's claim.
func (h *Host) claimTurn(ctx context.Context, claims *etcdops.Claims, name, component string) (etcdops.Claim, error) {
	self, waits := h.Spec().Name, ""
	ctx, cancel := context.WithTimeoutCause(ctx, turnPatience, errTurnTaken)
	defer cancel()
	for {
		claim, err := claims.Take(ctx, name, self, restartTime)
		if err != nil || claim.Holder == self {
			return claim, err
		}
		if claim.Holder != waits {
			h.log.Info(component+" waits for its turn to be restarted", "because", claim.Holder+" has it")
		}
		waits = claim.Holder
		claims.Changed(ctx, claim)
		if why := context.Cause(ctx); why == errTurnTaken {
			return claim, fmt.Errorf("%w: %s has had the turn of %s for %s: look at it there (nodeagent status)", why, waits, component, turnPatience)
		} else if why != nil {
			return claim, why
		}
	}
}

// endTurn releases the claim when this host's member is healthy again. Where it
// does not become so, the claim is left to lapse: the others have some more
// time before they, too, look whether they may.
func (h *Host) endTurn(claims *etcdops.Claims, claim etcdops.Claim, endpoints []string) {
	ctx, cancel := context.WithTimeout(context.Background(), catchUpTime)
	defer cancel()
	for ctx.Err() == nil {
		health, _ := etcdops.AskHealth(ctx, EtcdTLS(h.root), endpoints)
		if _, ill := illMembers(health); health.Healthy && len(ill) == 0 {
			break
		}
		sleepUntil(ctx, time.Now().Add(time.Second))
	}
	var err error
	if ctx.Err() == nil {
		err = claims.Release(ctx, claim)
	}
	if err = errors.Join(err, ctx.Err(), claims.Close()); err != nil {
		h.log.Warn("other hosts' etcd members wait before they are restarted", "for", restartTime, "because", err)
	}
}

// permit is whether a restart needs the claim.
type permit int

const (
	turnFree permit = iota // no member that serves is lost by it
	turnClaimed
)

// judgeTurn decides whether the host's member may be restarted. A member that
// is not healthy itself, and any member of a cluster without a quorum, may: the
// restart can only mend. It is pure.
func judgeTurn(health etcdops.Health, self string) (permit, error) {
	voters, ill := illMembers(health)
	if !health.Healthy || slices.Contains(ill, self) || len(voters) < 2 || !slices.Contains(voters, self) {
		return turnFree, nil
	}
	if serving := len(voters) - len(ill) - 1; serving < len(voters)/2+1 {
		if len(ill) == 0 {
			// Two members: each restart stops the cluster for its moment, whoever
			// goes first. One after the other, it comes back.
			return turnClaimed, nil
		}
		return 0, fmt.Errorf("not restarted: the etcd members %v do not answer, and without this one the cluster would stop: mend those first", ill)
	}
	return turnClaimed, nil
}

// illMembers are the names of the members that vote, and of those among them
// that did not answer.
func illMembers(health etcdops.Health) (voters, ill []string) {
	for _, m := range health.Members {
		if m.Learner {
			continue
		}
		voters = append(voters, m.Name)
		if m.Version == "" || len(m.Errors) > 0 {
			ill = append(ill, m.Name)
		}
	}
	return voters, ill
}
