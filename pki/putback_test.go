package pki

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// TestPutBack: the pair before is in use again, whole; the one that was refused
// is not asked for in a loop, but is tried again in time, and at once when the
// spec asks for something else.
func TestPutBack(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	const name = layout.CertAPIServer
	want := Want(h.spec)
	request := want.certificate(name).Request
	back := func() error {
		return (&Applier{Root: h.root, Now: func() time.Time { return h.now }}).PutBack(context.Background(), request, "refused by the test")
	}
	if err := back(); err == nil {
		t.Fatal("put back, and there is nothing before the first pair")
	}
	have := h.observe()
	first := have.Pair(name)

	h.now = first.NotAfter.Add(-25 * day) // due, and the pair is good for 25 days
	h.converge()
	have = h.observe()
	second := have.Pair(name)
	if !second.PreviousEnd.Equal(first.NotAfter) {
		t.Fatalf("the pair before ends %s, want %s", second.PreviousEnd, first.NotAfter)
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	have = h.observe()
	got := have.Pair(name)
	if got.Condition != Sound || got.Serial != first.Serial || got.Refused == nil || got.Refused.Serial != second.Serial {
		t.Fatalf("after it %+v", got)
	}
	if changes := h.diff(); len(changes) > 0 {
		t.Fatalf("it is asked for in a loop:\n%s", printed(changes))
	}
	if s := statusOf(have, want, h.now, name); s.State != StateRefused || s.Reason == "" {
		t.Errorf("status %+v", s)
	}
	if a := Alarms(have, want, h.now); len(a) != 1 || !a[0].Now || !strings.Contains(a[0].Text, "refused by the test") {
		t.Errorf("alarms %+v, want one that says who refused it", a)
	}
	if next, at := NextDue(have, want, h.now), h.now.Add(firstRefusalPause); !next.Equal(at) {
		t.Errorf("next due %s, want %s", next, at)
	}
	h.spec.PKI.ExtraNames = append(h.spec.PKI.ExtraNames, "new.example.org")
	if c := only(t, h.diff(), "certificate "+name); c.Action != plan.ActionIssue {
		t.Errorf("a spec that asks for more: %+v", c)
	}
	h.spec = mercury()
	h.now = h.now.Add(firstRefusalPause)
	h.converge()
	have = h.observe()
	if third := have.Pair(name); third.Serial == first.Serial || third.Serial == second.Serial {
		t.Error("it was not issued again after the pause")
	}
	if a := Alarms(have, want, h.now); len(a) > 0 {
		t.Errorf("alarms of a pair that is in use: %+v", a)
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	have = h.observe()
	if r := have.Pair(name).Refused; r.Attempts != 2 || !r.until(first.NotAfter).Equal(h.now.Add(2*firstRefusalPause)) {
		t.Errorf("after the second refusal %+v", r)
	}
	// A pair that has ended is replaced whatever was refused.
	h.now = first.NotAfter.Add(time.Minute)
	h.converge()
}

func statusOf(have, want State, now time.Time, name string) Status {
	for _, s := range List(have, want, now) {
		if s.Name == name {
			return s
		}
	}
	return Status{}
}

// TestRefusalPauses: with little time left another pair is tried sooner, and
// the last attempt comes before the end.
func TestRefusalPauses(t *testing.T) {
	for _, tc := range []struct {
		left     time.Duration
		attempts int
		want     time.Duration
	}{
		{25 * day, 1, time.Hour},
		{25 * day, 3, 4 * time.Hour},
		{25 * day, 40, 24 * time.Hour},
		{time.Hour, 1, 45 * time.Minute},
		{time.Minute, 5, 45 * time.Second},
		{-time.Hour, 1, 0},
	} {
		r := &Refused{At: start, Attempts: tc.attempts}
		if got := r.until(start.Add(tc.left)).Sub(start); got != tc.want {
			t.Errorf("%s left, %d attempts: after %s, want %s", tc.left, tc.attempts, got, tc.want)
		}
	}
}

// TestPutBackKilledAtEveryStep: at each moment one whole pair is in use, the
// refused one or the one before, and putting back once more completes.
func TestPutBackKilledAtEveryStep(t *testing.T) {
	const name = layout.CertKubeletServer
	t.Setenv(crashBack, name)
	at := 1
	for ; ; at++ {
		root := layout.Root(folder(t))
		for _, now := range []time.Time{start.Add(-70 * day), start} {
			if err := crashApply(root, now, nil); err != nil {
				t.Fatal(err)
			}
		}
		before, err := Observe(context.Background(), root)
		if err != nil {
			t.Fatal(err)
		}
		killed := runToCrash(t, root, start, at)
		seen, err := Observe(context.Background(), root)
		if err != nil {
			t.Fatal(err)
		}
		usable(t, seen, at)
		old, now := before.Pair(name), seen.Pair(name)
		if now.Serial == old.Serial {
			if err := crashPutBack(root, name, start, nil); err != nil {
				t.Fatalf("killed at step %d: once more: %v", at, err)
			}
		} else if now.Refused == nil {
			t.Fatalf("killed at step %d: the old pair is in use, and nobody knows why", at)
		}
		if seen, err = Observe(context.Background(), root); err != nil {
			t.Fatal(err)
		}
		if p := seen.Pair(name); p.Serial == old.Serial || p.Refused == nil || p.Refused.Serial != old.Serial {
			t.Fatalf("killed at step %d: then %+v", at, p)
		}
		if err := os.RemoveAll(string(root)); err != nil {
			t.Fatal(err)
		}
		if !killed {
			break
		}
	}
	if at < 8 {
		t.Errorf("only %d steps were met", at)
	}
}
