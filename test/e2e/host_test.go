package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// host is the host under test together with the test that uses it now: what
// must work for the test to go on fails it at once.
type host struct {
	*lab.Mercury
	t   *testing.T
	ctx context.Context
}

// stepTimeout ends a step that hangs, long before the whole test would.
const stepTimeout = 12 * time.Minute

// newHost boots a bare host.
func newHost(t *testing.T, l *lab.Lab) *host {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	m, err := l.AddMercury(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	return (&host{Mercury: m}).with(t)
}

// with is the host in the hands of another test.
func (h *host) with(t *testing.T) *host {
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if t.Failed() {
			h.explain(t)
		}
	})
	return &host{Mercury: h.Mercury, t: t, ctx: ctx}
}

// step is a part of a test that goes on from what the parts before it left.
type step struct {
	name string
	run  func(*testing.T, *host)
}

// steps runs one after the other. They build on each other, so the first that
// fails ends the test.
func (h *host) steps(all []step) {
	h.t.Helper()
	for _, step := range all {
		start := time.Now()
		if !h.t.Run(step.name, func(t *testing.T) { step.run(t, h.with(t)) }) {
			h.t.Fatalf("%q failed, and the next steps build on it", step.name)
		}
		h.t.Logf("%s: %s", step.name, time.Since(start).Round(100*time.Millisecond))
	}
}

// explain logs what the host looks like after a failure.
func (h *host) explain(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, command := range []string{
		"nodeagent status", "ip -br address; ip route", "nft list ruleset | head -300",
		". /etc/profile; kubectl get nodes,pods,services,endpointslices -A -o wide",
		". /etc/profile; kubectl get events -A --sort-by=.lastTimestamp | tail -20",
	} {
		out, err := h.Exec(ctx, "sh", "-c", command)
		t.Logf("%s (%v):\n%s", command, err, out)
	}
}

// must returns the output of a command on the host, which must succeed.
func (h *host) must(args ...string) string {
	h.t.Helper()
	out, err := h.Exec(h.ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// agent returns the output of nodeagent on the host, which must succeed.
func (h *host) agent(args ...string) string {
	h.t.Helper()
	out, err := h.Nodeagent(h.ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// kubectl returns the output of kubectl, which must succeed.
func (h *host) kubectl(args ...string) string {
	h.t.Helper()
	out, err := h.Kubectl(h.ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// until waits for a condition, which must come true within the limit.
func (h *host) until(limit time.Duration, what string, check func() error) {
	h.t.Helper()
	err := lab.Within(h.ctx, limit, what, func(context.Context) error { return check() })
	if err != nil {
		h.t.Fatal(err)
	}
}

// exitCode is a command's exit code, out of the error of Exec.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// change is what this package reads of a planned change.
type change struct {
	Domain string `json:"domain"`
	Key    string `json:"key"`
	Action string `json:"action"`
	Effect string `json:"effect"`
	Reason string `json:"reason"`
}

// plan returns what nodeagent would change, and checks that its exit code says
// the same.
func (h *host) plan() []change {
	h.t.Helper()
	out, err := h.Nodeagent(h.ctx, "plan", "--exit-code", "-o", "json")
	var plan struct {
		Changes []change `json:"changes"`
	}
	if wrong := json.Unmarshal([]byte(out), &plan); wrong != nil {
		h.t.Fatalf("plan -o json (%v): %v in:\n%s", err, wrong, out)
	}
	want := 0
	if len(plan.Changes) > 0 {
		want = 2
	}
	if got := exitCode(err); got != want {
		h.t.Fatalf("plan --exit-code with %d changes: exit code %d, want %d (%v)", len(plan.Changes), got, want, err)
	}
	return plan.Changes
}

// converged fails the test if nodeagent would change anything.
func (h *host) converged() {
	h.t.Helper()
	if changes := h.plan(); len(changes) > 0 {
		h.t.Fatalf("the host is not converged, a plan has %d changes: %+v", len(changes), changes)
	}
}
