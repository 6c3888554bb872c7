package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// TurnClaim is the name of the claim that is held by whoever takes a member of
// etcd away for a while: the agent that restarts one, and every operation on the
// cluster. So no two of them run at once, on whichever hosts.
const TurnClaim = "etcd-restart"

// turnTime is for how long an operation's claim outlives its process. It is a
// variable for the test that kills one over and over.
var turnTime = 30 * time.Second

// turnPatience is how long, beyond that, an operation waits for another's turn
// to end: that of one that was killed lapses by then.
const turnPatience = 15 * time.Second

// Told tells what an operation does, a line at a time.
type Told func(step, format string, args ...any)

func (t Told) say(step, format string, args ...any) {
	if t != nil {
		t(step, format, args...)
	}
}

// takeTurn holds the turn until release is called. The returned context ends
// when the claim is lost. A cluster of one member needs no turn: etcd itself
// does one thing after the other, and while it does it could not renew a claim.
func takeTurn(ctx context.Context, site Site, v View, what string, told Told) (_ context.Context, release func() error, err error) {
	if v.Voters < 2 {
		return ctx, func() error { return nil }, nil
	}
	if len(v.Alarms) > 0 {
		told.say("wait", "an alarm is on, so etcd takes no claim: see that nobody else works on it meanwhile")
		return ctx, func() error { return nil }, nil
	}
	claims, err := OpenClaims(ctx, site.TLS, servingEndpoints(v))
	if err != nil {
		return nil, nil, err
	}
	// Unlike the agent's, which bears the host's name alone, so that no two
	// processes take each other's for their own.
	self := fmt.Sprintf("%s (%s, process %d)", site.Self, what, os.Getpid())
	claim, err := awaitTurn(ctx, claims, self, told)
	if err != nil {
		return nil, nil, errors.Join(err, claims.Close())
	}
	held, lost := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() { defer close(stopped); renewTurn(held, claims, claim, stop, lost) }()
	return held, func() error {
		close(stop)
		<-stopped
		lost(nil)
		return errors.Join(claims.Release(context.WithoutCancel(ctx), claim), claims.Close())
	}, nil
}

func awaitTurn(ctx context.Context, claims *Claims, self string, told Told) (Claim, error) {
	patient, cancel := context.WithTimeout(ctx, turnTime+turnPatience)
	defer cancel()
	said := ""
	for {
		claim, err := claims.Take(patient, TurnClaim, self, turnTime)
		if claim.Holder != "" && claim.Holder != self && patient.Err() != nil {
			return claim, fmt.Errorf("%w: %s has etcd's turn; let it end, then try again", ErrBusy, claim.Holder)
		}
		if err != nil || claim.Holder == self {
			return claim, err
		}
		if said != claim.Holder {
			told.say("wait", "%s has etcd's turn", claim.Holder)
		}
		said = claim.Holder
		claims.Changed(patient, claim)
		if ctx.Err() == nil && patient.Err() != nil {
			return claim, fmt.Errorf("%w: %s has etcd's turn; let it end, then try again", ErrBusy, claim.Holder)
		}
	}
}

// renewTurn renews the claim until it is stopped, and ends what runs under it
// when it is lost. What leaves open whether it was renewed is tried again.
func renewTurn(ctx context.Context, claims *Claims, claim Claim, stop <-chan struct{}, lost context.CancelCauseFunc) {
	tick := time.NewTicker(turnTime / 6)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := claims.Renew(ctx, claim); errors.Is(err, ErrClaimLost) {
				lost(fmt.Errorf("etcd's turn was lost: %w", err))
				return
			}
		}
	}
}

// servingEndpoints are where the members are asked that do their part.
func servingEndpoints(v View) []string {
	var endpoints []string
	for _, m := range v.Members {
		if m.Serves() {
			endpoints = append(endpoints, m.Endpoint)
		}
	}
	return endpoints
}

// causeOf is why ctx ended where it did so for a reason of its own.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return errors.Join(cause, err)
	}
	return err
}
