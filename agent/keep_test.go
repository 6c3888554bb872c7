package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func TestFailedNetwork(t *testing.T) {
	change := func(domain, key string) plan.Change {
		return plan.Change{Domain: domain, Key: key, Action: plan.ActionUpdate}
	}
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		result Result
		failed bool
	}{
		"all well":                 {Result{{Domain: DomainKernel}, {Domain: DomainNetwork}}, false},
		"the network's domain":     {Result{{Domain: DomainKernel}, {Domain: DomainNetwork, Err: boom}}, true},
		"an address is left":       {Result{{Domain: DomainNetwork, Remaining: []plan.Change{change(DomainNetwork, "address")}}}, true},
		"a sysctl of the network":  {Result{{Domain: DomainKernel, Err: boom, Remaining: []plan.Change{change(DomainKernel, "sysctl net.ipv4.ip_forward")}}, {Domain: DomainNetwork}}, true},
		"another sysctl":           {Result{{Domain: DomainKernel, Err: boom, Remaining: []plan.Change{change(DomainKernel, "sysctl vm.swappiness")}}, {Domain: DomainNetwork}}, false},
		"a module that is missing": {Result{{Domain: DomainKernel, Err: boom, Remaining: []plan.Change{change(DomainKernel, "module ip_vs")}}, {Domain: DomainNetwork}}, false},
	} {
		if got := failedNetwork(tc.result); (got != "") != tc.failed {
			t.Errorf("%s: failed %q", name, got)
		}
	}
}

// drifting is a domain whose host drifts as told.
type drifting struct {
	want    string
	changes []plan.Change
	applied int
}

func (*drifting) Name() string                                  { return DomainNetwork }
func (d *drifting) Plan(context.Context) ([]plan.Change, error) { return d.changes, nil }
func (d *drifting) Wants(context.Context) (any, error)          { return d.want, nil }
func (d *drifting) Apply(_ context.Context, changes []plan.Change, _ plan.Reporter) error {
	d.applied += len(changes)
	d.changes = nil
	return nil
}

// TestDriftIsReported: a domain is made for each want of the spec, and then left
// alone, also by a daemon that was started anew.
func TestDriftIsReported(t *testing.T) {
	root := layout.Root(t.TempDir())
	if err := os.MkdirAll(root.State(), 0o700); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	daemon := func(drift hosts.Drift) *Host {
		h := &Host{root: root, heed: true, log: slog.New(slog.NewTextHandler(&said, nil))}
		h.setSpec(&hosts.Spec{Drift: map[string]hosts.Drift{DomainNetwork: drift}})
		return h
	}
	d := &drifting{want: "a"}
	drift := func(key string) {
		d.changes = []plan.Change{{Domain: DomainNetwork, Key: key, Action: plan.ActionCreate}}
	}
	h := daemon(hosts.DriftReport)
	for i, step := range []struct {
		do      func()
		applied int // in all
		said    int // how often drift was told, in all
	}{
		{func() { drift("address x") }, 1, 0}, // first made
		{func() { drift("address x") }, 1, 1},
		{func() {}, 1, 1}, // the same is not told twice
		{func() { drift("address y") }, 1, 2},
		{func() { d.changes = nil }, 1, 2},    // repaired by hand
		{func() { drift("address y") }, 1, 3}, // news again
		{func() { d.want = "b" }, 2, 3},       // the spec changed
		{func() { drift("address z"); h = daemon(hosts.DriftReport) }, 2, 4},
		{func() { d.changes[0].Action = plan.ActionRenew }, 3, 4}, // a certificate that ends
		{func() { drift("address z"); h = daemon(hosts.DriftRepair) }, 4, 4},
	} {
		step.do()
		h.converge(t.Context(), []Domain{d}, plan.Silent{})
		if told := strings.Count(said.String(), "only reported"); d.applied != step.applied || told != step.said {
			t.Errorf("step %d: %d changes applied, told %d times; want %d, %d\n%s", i, d.applied, told, step.applied, step.said, &said)
		}
	}
}

// TestEveryDomainTellsItsWant: what cannot be told apart would be made again and
// again, or never.
func TestEveryDomainTellsItsWant(t *testing.T) {
	fleet, err := hosts.Load("../hosts/fleets/mercury")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), layout.Root(t.TempDir()), fleet.Hosts[0], slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	seen := map[string]string{}
	for _, d := range h.Domains() {
		digest, err := wantDigest(t.Context(), d)
		if err != nil {
			t.Errorf("domain %s: %v", d.Name(), err)
		}
		if again, _ := wantDigest(t.Context(), d); again != digest {
			t.Errorf("domain %s: the want has two digests", d.Name())
		}
		if other, ok := seen[digest]; ok {
			t.Errorf("domains %s and %s want the same", other, d.Name())
		}
		seen[digest] = d.Name()
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	root := layout.Root(t.TempDir())
	lock, err := Acquire(t.Context(), root, nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(t.Context(), root, []string{DomainNetwork}, 0)
	if !errors.Is(err, ErrLocked) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a lock that is taken: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if lock, err = Acquire(t.Context(), root, []string{DomainNetwork}, 0); err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if first, err := AcquireDaemon(t.Context(), root); err != nil {
		t.Errorf("an apply keeps the daemon from starting: %v", err)
	} else {
		defer first.Release()
	}
	if _, err := AcquireDaemon(t.Context(), root); !errors.Is(err, ErrLocked) {
		t.Errorf("two daemons: %v", err)
	}
}
