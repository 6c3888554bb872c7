package netcfg

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// otherPeople are makers of routes: by hand, an administrator, DHCP, and a
// daemon, which keeps its own routes.
var otherPeople = []int{unix.RTPROT_BOOT, unix.RTPROT_STATIC, unix.RTPROT_DHCP, unix.RTPROT_BIRD}

// somebodysRandom puts random routes and rules of somebody else onto the host,
// and returns what takes them away again.
func somebodysRandom(t *testing.T, sys *System, r *rand.Rand, makers []int) (remove func()) {
	t.Helper()
	theirs := Want(&hosts.Spec{Network: randomRoutes(r)})
	var put, away []plan.Change
	for _, route := range theirs.Routes {
		route.Protocol = makers[r.IntN(len(makers))]
		put, away = append(put, plan.Change{Payload: putRoute{route: route}}), append(away, plan.Change{Payload: deleteRoute{route}})
	}
	for _, rule := range theirs.Rules {
		rule.Protocol = makers[r.IntN(len(makers))]
		put, away = append(put, plan.Change{Payload: putRule{rule}}), append(away, plan.Change{Payload: deleteRule{rule}})
	}
	must(t, sys.Apply(t.Context(), put, plan.Silent{}))
	return func() { must(t, sys.Apply(t.Context(), away, plan.Silent{})) }
}

// adopting is a random spec that takes over whatever is in its way; with
// addresses of its own, of which any may be missing or another.
func adopting(r *rand.Rand, addresses bool) State {
	n := randomRoutes(r)
	for i := range n.Routes {
		n.Routes[i].Adopt = true
	}
	for i := range n.Rules {
		n.Rules[i].Adopt = true
	}
	if !addresses {
		return Want(&hosts.Spec{Network: n})
	}
	// Without the networks of the others there are no gateways.
	n.Routes = slices.DeleteFunc(n.Routes, func(r hosts.Route) bool { return r.Type == "" })
	for i := range n.Links {
		l := &n.Links[i]
		switch r.IntN(4) {
		case 0:
			l.Addresses = nil
		case 1:
			l.Addresses[0].Prefix = netip.MustParsePrefix("192.0.2.1/24")
		case 2:
			l.Addresses[1].Prefix = netip.MustParsePrefix("2001:db8::1/64")
		}
	}
	return Want(&hosts.Spec{Network: n})
}

// TestBackLaws: over hundreds of random pairs of states, with routes and rules of
// others everywhere, the stored way back leads exactly to where the change began,
// as ip(8) tells it, from wherever the change was stopped.
func TestBackLaws(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "lan1", "wire1")
	sys := open(t)
	sys.batchSize = 2 // so that there are places to stop at
	r := rand.New(rand.NewPCG(3, 9))
	stopped, touched := 0, 0
	for round := range 300 {
		from := Want(&hosts.Spec{Network: randomRoutes(r)})
		converge(t, sys, from)
		addresses := round%3 == 2
		makers := otherPeople
		if addresses { // a daemon puts its own back when its link has addresses again
			makers = otherPeople[:3]
		}
		remove := somebodysRandom(t, sys, r, makers)
		before := ipState(t)
		want := adopting(r, addresses)
		have, err := sys.Before(t.Context(), "", want)
		must(t, err)
		back, err := Back(have, want)
		must(t, err)
		changes := Diff(have, want)
		ctx := t.Context()
		if r.IntN(2) == 0 {
			ctx = countdown(ctx, r.IntN(1+len(changes)))
		}
		switch err := sys.Apply(ctx, changes, plan.Silent{}); {
		case errors.Is(err, context.Canceled):
			stopped++
		case err != nil:
			t.Fatalf("round %d: %v\nplan:\n%s", round, err, printed(changes))
		default:
			if left := diffNow(t, sys, want); len(left) > 0 {
				t.Fatalf("round %d: after one apply there is still\n%s\nplan was\n%s", round, printed(left), printed(changes))
			}
		}
		if ipState(t) != before {
			touched++
		}
		undo := diffNow(t, sys, stored(t, back))
		if err := sys.Apply(t.Context(), undo, plan.Silent{}); err != nil {
			t.Fatalf("round %d: on the way back: %v\nplan was\n%s\nundoing\n%s", round, err, printed(changes), printed(undo))
		}
		if d := cmp.Diff(before, ipState(t)); d != "" {
			t.Fatalf("round %d: not exactly back (-before +after):\n%s\nplan was\n%s\nundone by\n%s", round, d, printed(changes), printed(undo))
		}
		if left := diffNow(t, sys, stored(t, back)); len(left) > 0 {
			t.Fatalf("round %d: one apply back, and there is still\n%s\nundone by\n%s", round, printed(left), printed(undo))
		}
		remove()
	}
	t.Logf("%d of the changes did something, %d were stopped on their way", touched, stopped)
	if touched < 200 || stopped < 30 {
		t.Errorf("%d of the changes did something, %d were stopped on their way: the test proves little", touched, stopped)
	}
}
