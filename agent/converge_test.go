package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// values is a domain over a map in memory: real enough to try the rounds.
type values struct {
	name       string
	have, want map[string]string
	needs      *values // its first value must be right before this one can be set
	applyErr   error
	planErr    error
	applies    int
	stubborn   bool // Apply says it did and did not
}

func (v *values) Name() string { return v.name }

func (v *values) Plan(context.Context) ([]plan.Change, error) {
	if v.needs != nil && len(v.needs.have) == 0 {
		return nil, v.planErr
	}
	var changes []plan.Change
	for key, want := range v.want {
		if have := v.have[key]; have != want {
			changes = append(changes, plan.Change{Domain: v.name, Key: key, Action: plan.ActionUpdate, Before: have, After: want, Reason: "it differs"})
		}
	}
	return changes, v.planErr
}

func (v *values) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	v.applies++
	return plan.Each(ctx, changes, rep, func(_ context.Context, c plan.Change) error {
		if v.applyErr != nil {
			return v.applyErr
		}
		if !v.stubborn {
			if v.have == nil {
				v.have = map[string]string{}
			}
			v.have[c.Key] = c.After
		}
		return nil
	})
}

func TestConvergeReachesTheSpecAndStaysThere(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var domains []Domain
		for i := range 1 + rng.IntN(4) {
			d := &values{name: DomainNames()[i], have: map[string]string{}, want: map[string]string{}}
			for k := range rng.IntN(5) {
				d.want[strconv.Itoa(k)] = strconv.Itoa(rng.IntN(3))
				d.have[strconv.Itoa(k)] = strconv.Itoa(rng.IntN(3))
			}
			domains = append(domains, d)
		}
		if err := Converge(t.Context(), domains, plan.Silent{}).Err(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		p, err := Plan(t.Context(), domains)
		if err != nil || !p.Empty() {
			t.Fatalf("seed %d: the plan after a converge is %v, %v", seed, p, err)
		}
		if again := Converge(t.Context(), domains, plan.Silent{}); again.Applied() != 0 {
			t.Fatalf("seed %d: a second converge changed %d things", seed, again.Applied())
		}
	}
}

func TestConvergeGivesLateInputsTheirTurn(t *testing.T) {
	second := &values{name: DomainUnits, want: map[string]string{"a": "1"}}
	first := &values{name: DomainPKI, want: map[string]string{"b": "1"}, needs: second}
	// first can be planned only after second has applied: that is in round two.
	if err := Converge(t.Context(), []Domain{first, second}, plan.Silent{}).Err(); err != nil {
		t.Fatal(err)
	}
	if first.have["b"] != "1" {
		t.Error("the domain whose input came late was not applied")
	}
}

func TestDomainsFailIndependently(t *testing.T) {
	sealed := errors.New("vault is sealed")
	bad := &values{name: DomainPKI, want: map[string]string{"cert": "1"}, applyErr: sealed}
	good := &values{name: DomainUnits, want: map[string]string{"unit": "1"}}
	blind := &values{name: DomainCluster, planErr: errors.New("not reachable")}
	r := Converge(t.Context(), []Domain{bad, good, blind}, plan.Silent{})
	if good.have["unit"] != "1" {
		t.Error("a failing domain stopped the next one")
	}
	if bad.applies != 1 {
		t.Errorf("the failing domain was applied %d times, want once", bad.applies)
	}
	err := r.Err()
	if !errors.Is(err, sealed) || !strings.Contains(err.Error(), "pki: ") || !strings.Contains(err.Error(), "cluster: not reachable") {
		t.Errorf("error %q does not name both domains", err)
	}
	if r[1].Err != nil || !r[1].Converged() || r[0].Converged() || r[2].Converged() {
		t.Errorf("outcomes %+v", r)
	}
	if r.Applied() != 1 {
		t.Errorf("%d changes counted as applied, want 1", r.Applied())
	}
}

func TestConvergeDoesNotBelieveAnApplyThatChangedNothing(t *testing.T) {
	liar := &values{name: DomainKernel, want: map[string]string{"x": "1"}, stubborn: true}
	err := Converge(t.Context(), []Domain{liar}, plan.Silent{}).Err()
	if err == nil || !strings.Contains(err.Error(), "kernel: update x is still to be done") {
		t.Errorf("error %v, want one that names what is left", err)
	}
	if liar.applies != maxRounds {
		t.Errorf("applied %d times, want %d", liar.applies, maxRounds)
	}
}

func TestNothingIsAppliedBlindly(t *testing.T) {
	seen := map[string]string{}
	domain := func(whole bool) Domain {
		return verbs[string]{
			name: DomainUnits, whole: whole,
			want:    func(context.Context) (string, error) { return "1", nil },
			observe: func(context.Context, string) (string, error) { return "", errors.New("no such process") },
			diff:    func(string, string) []plan.Change { return []plan.Change{{Key: "a", Action: plan.ActionRestart}} },
			apply: func(context.Context, []plan.Change, plan.Reporter) error {
				seen["applied"] = "yes"
				return nil
			},
		}
	}
	r := Converge(t.Context(), []Domain{domain(true)}, plan.Silent{})
	if len(seen) > 0 || r.Err() == nil || len(r[0].Remaining) != 1 {
		t.Errorf("applied %v, result %+v: changes of an incomplete view were not held back", seen, r)
	}
	if Converge(t.Context(), []Domain{domain(false)}, plan.Silent{}); len(seen) == 0 {
		t.Error("a domain that may go on with what it knows did not")
	}
}

func TestOnly(t *testing.T) {
	all := []Domain{&values{name: DomainKernel}, &values{name: DomainPKI}}
	some, err := Only(all, []string{DomainPKI})
	if err != nil || len(some) != 1 || some[0].Name() != DomainPKI {
		t.Errorf("got %v, %v", some, err)
	}
	if len(all) != 2 || all[0].Name() != DomainKernel {
		t.Error("the list that was passed in changed")
	}
	if _, err := Only(all, []string{"netwrok"}); err == nil || !strings.Contains(err.Error(), "network") {
		t.Errorf("error %v does not list the domains", err)
	}
}

func TestLockIsExclusive(t *testing.T) {
	root := layout.Root(t.TempDir())
	acquire := func(domains ...string) (*Lock, error) { return Acquire(t.Context(), root, domains, 0) }
	first, err := acquire(DomainCluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, domains := range [][]string{{DomainUnits}, {DomainKernel, DomainCluster}, nil} {
		if _, err := acquire(domains...); !errors.Is(err, ErrLocked) {
			t.Errorf("lock of %v: %v, want ErrLocked", domains, err)
		}
	}
	// The host's own domains do not wait for the cluster's, and a lock that was
	// not had in full is given back.
	other, err := acquire(DomainNetwork)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Release(), other.Release()); err != nil {
		t.Fatal(err)
	}
	all, err := acquire()
	if err != nil {
		t.Fatal(err)
	}
	if err := all.Release(); err != nil {
		t.Fatal(err)
	}
}
