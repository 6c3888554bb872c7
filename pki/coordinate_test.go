package pki

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// lead makes a coordinator of a host whose certificates follow at once, and
// which stops before the nth step; 0 never.
func lead(h *host, stop int) (*Coordinator, *[]Do) {
	steps := &[]Do{}
	issuer := &Local{Root: h.root, Now: func() time.Time { return h.now }}
	ctx, cancel := context.WithCancelCause(context.Background())
	h.t.Cleanup(func() { cancel(nil) })
	c := &Coordinator{
		Issuer: issuer, Store: LocalChanges{h.root}, Poll: time.Microsecond,
		Uses: func(_ context.Context, ca string) ([]Use, error) {
			if stop > 0 && len(*steps) >= stop {
				return nil, errStopped
			}
			r := NewReport(h.observe(), Want(h.spec), h.now)
			r.Proven = len(h.diff()) == 0
			return Uses([]*hosts.Spec{h.spec}, map[string]Report{h.spec.Name: r}, ca, h.now), ctx.Err()
		},
		Follow: func(context.Context) error { return h.apply(h.diff()) },
		Tell:   func(step Do, _ Change, _ []Use) { *steps = append(*steps, step) },
	}
	return c, steps
}

var errStopped = errors.New("stopped by the test")

// TestCoordinator changes a CA, in one go and interrupted after each step.
func TestCoordinator(t *testing.T) {
	const ca = layout.CAEtcdServer
	want := []Do{DoAdd, DoTrust, DoSwitch, DoIssue, DoDrop, DoForget, DoNothing}
	for stop := range len(want) {
		h := newHost(t, mercury())
		h.converge()
		old := ids(t, &Local{Root: h.root}, ca)[0]
		c, steps := lead(h, stop)
		err := c.Run(context.Background(), ca, false)
		if stop > 0 {
			if !errors.Is(err, errStopped) {
				t.Fatalf("stopped after step %d: %v", stop, err)
			}
			c, more := lead(h, 0)
			err = c.Run(context.Background(), ca, false)
			steps = more
		}
		if err != nil {
			t.Fatalf("stopped after step %d: %v", stop, err)
		}
		if stop == 0 && !slices.Equal(*steps, want) {
			t.Errorf("the steps were %v, want %v", *steps, want)
		}
		h.converge()
		have := ids(t, &Local{Root: h.root}, ca)
		if len(have) != 1 || have[0] == old {
			t.Errorf("stopped after step %d: in the end %v, the old one was %s", stop, have, old)
		}
		if left, err := (LocalChanges{h.root}).Load(context.Background(), ca); left != nil || err != nil {
			t.Errorf("it is still remembered: %+v, %v", left, err)
		}
	}
}

// TestCoordinatorBack turns a change back from each step at which it can be.
func TestCoordinatorBack(t *testing.T) {
	const ca = layout.CAK8sServer
	for stop := 1; stop <= 5; stop++ {
		h := newHost(t, mercury())
		h.converge()
		old := ids(t, &Local{Root: h.root}, ca)[0]
		c, _ := lead(h, stop)
		if err := c.Run(context.Background(), ca, false); !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
		c, _ = lead(h, 0)
		err := c.Run(context.Background(), ca, true)
		if stop == 5 { // dropped
			if err == nil || !strings.Contains(err.Error(), "dropped already") {
				t.Errorf("turned back after the drop: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("turned back after step %d: %v", stop, err)
		}
		if have := ids(t, &Local{Root: h.root}, ca); !slices.Equal(have, []string{old}) {
			t.Errorf("turned back after step %d: %v, want %s alone", stop, have, old)
		}
		h.converge()
	}
	h := newHost(t, mercury())
	h.converge()
	c, _ := lead(h, 0)
	if err := c.Run(context.Background(), ca, true); err == nil {
		t.Error("turned back what was not begun")
	}
}
