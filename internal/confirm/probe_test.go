package confirm

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	before := []Finding{{Name: "a", OK: true}, {Name: "b", Detail: "refused"}, {Name: "c", OK: true}, {Name: "d", OK: true}, {Name: "e", OK: true}}
	after := []Finding{
		{Name: "a", OK: true},
		{Name: "b", Detail: "refused"},
		{Name: "c", Detail: "timeout"},
		{Name: "d", Detail: "no gateway any more", Optional: true},
		{Name: "f", OK: true},
		{Name: "g"},
	}
	want := []Verdict{
		{Name: "a", Before: true, After: true},
		{Name: "b", Detail: "refused"},
		{Name: "c", Before: true, Lost: true, Detail: "timeout"},
		{Name: "d", Before: true, Detail: "no gateway any more"},
		{Name: "e", Before: true, Lost: true}, // not asked again
		{Name: "f", After: true},
		{Name: "g"},
	}
	if diff := cmp.Diff(want, Judge(before, after)); diff != "" {
		t.Error(diff)
	}
	if got := Lost(before, after); got != "c (timeout), e ()" {
		t.Errorf("lost %q", got)
	}
	if got := Lost(nil, after); got != "" {
		t.Errorf("nothing answered before, and %q is lost", got)
	}
}

func TestTurn(t *testing.T) {
	confirmed := &Confirmed{Network: "good", Want: Way{Boot: "b1"}}
	rejected := &Rejected{Network: "bad", Earlier: []string{"worse"}}
	for name, tc := range map[string]struct {
		records Records
		network string
		boot    string
		probes  bool
		want    Turn
	}{
		"first spec, no probes":                 {Records{}, "good", "b1", false, TurnMake},
		"first spec, probes":                    {Records{}, "good", "b1", true, TurnTry},
		"drift":                                 {Records{Confirmed: confirmed}, "good", "b1", true, TurnMake},
		"boot":                                  {Records{Confirmed: confirmed}, "good", "b2", true, TurnMake},
		"new spec":                              {Records{Confirmed: confirmed}, "new", "b1", true, TurnTry},
		"new spec, no probes":                   {Records{Confirmed: confirmed}, "new", "b1", false, TurnMake},
		"new spec while off":                    {Records{Confirmed: confirmed}, "new", "b2", true, TurnReturn},
		"new spec while off, no probes":         {Records{Confirmed: confirmed}, "new", "b2", false, TurnMake},
		"rejected":                              {Records{Confirmed: confirmed, Rejected: rejected}, "bad", "b1", true, TurnBack},
		"rejected on the way to another":        {Records{Confirmed: confirmed, Rejected: rejected}, "worse", "b1", true, TurnBack},
		"rejected, no probes, after a reboot":   {Records{Confirmed: confirmed, Rejected: rejected}, "bad", "b2", false, TurnBack},
		"another than the rejected":             {Records{Confirmed: confirmed, Rejected: rejected}, "new", "b1", true, TurnTry},
		"the confirmed one again":               {Records{Confirmed: confirmed, Rejected: rejected}, "good", "b1", true, TurnMake},
		"while one awaits confirmation":         {Records{Confirmed: confirmed, Attempt: &Attempt{}}, "good", "b1", true, TurnWait},
		"rejected, while another one is judged": {Records{Rejected: rejected, Attempt: &Attempt{}}, "bad", "b1", true, TurnWait},
	} {
		if got := tc.records.Turn(tc.network, tc.boot, tc.probes); got != tc.want {
			t.Errorf("%s: turn %d, want %d", name, got, tc.want)
		}
	}
	for _, tc := range []struct {
		records Records
		want    bool
	}{
		{Records{}, false},
		{Records{Confirmed: confirmed}, true},
		{Records{Confirmed: confirmed, Rejected: rejected}, false},
		{Records{Confirmed: &Confirmed{Network: "good", Want: Way{Boot: "b0"}}}, false},
	} {
		if got := tc.records.Fresh("good", "b1"); got != tc.want {
			t.Errorf("fresh with %+v: %t", tc.records, got)
		}
	}
}

// TestRejectionOfNestedAttempts keeps every network rejected that was tried on
// the way to the one that was undone.
func TestRejectionOfNestedAttempts(t *testing.T) {
	r := Records{
		Attempt:  &Attempt{Network: "c", Earlier: []string{"b", "c"}, Undoing: "silence"},
		Rejected: &Rejected{Network: "a", Earlier: []string{"z", "b"}},
	}.Rejection(time.Time{}, "")
	for _, network := range []string{"a", "b", "c", "z"} {
		if !r.Holds(network) {
			t.Errorf("%q is not rejected by %+v", network, r)
		}
	}
	if r.Holds("d") || !r.Proved || r.Reason != "silence" || len(r.Earlier) != 3 {
		t.Errorf("%+v", r)
	}
	if r := (Records{Attempt: &Attempt{}}).Rejection(time.Time{}, "route x"); r.Proved || r.Left != "route x" {
		t.Errorf("%+v", r)
	}
	if (*Rejected)(nil).Holds("") {
		t.Error("nothing holds something")
	}
}

// TestInterruptedTrials are made again a few times, unless something else speaks
// against the network.
func TestInterruptedTrials(t *testing.T) {
	confirmed := &Confirmed{Network: "good", Want: Way{Boot: "b1"}}
	r := Records{Confirmed: confirmed, Rejected: &Rejected{Network: "bad"}}
	try := func(network string) *Attempt {
		return &Attempt{Network: network, By: ByRun, Interrupted: r.Rejected.Interruptions(network)}
	}
	end := func(a *Attempt) {
		r.Attempt = a
		r.Rejected, r.Attempt = r.Rejection(time.Time{}, ""), nil
	}
	turn := func(network string, want Turn) {
		t.Helper()
		if got := r.Turn(network, "b1", true); got != want {
			t.Errorf("turn %d for %q, want %d; rejected: %+v", got, network, want, r.Rejected)
		}
	}
	for n := 1; n < mostInterruptions; n++ {
		a := try("new")
		a.Interrupt()
		end(a)
		turn("new", TurnTry)
	}
	turn("bad", TurnBack) // as it was before
	a := try("other")     // meanwhile the spec changed, and it is no good
	a.Undo("the gateway does not answer")
	end(a)
	turn("other", TurnBack)
	turn("new", TurnTry)
	for n := 1; n <= mostInterruptions; n++ {
		turn("new", TurnTry)
		a := try("new")
		a.Interrupt()
		end(a)
	}
	turn("new", TurnBack)
	if want := "the change was interrupted 3 times"; r.Rejected.Reason != want {
		t.Errorf("reason %q, want %q", r.Rejected.Reason, want)
	}
	// Probes that object count at once, and so does an apply that was stopped.
	r.Rejected = nil
	a = try("new")
	a.Interrupt()
	end(a)
	a = try("new")
	a.Undo("the gateway does not answer")
	end(a)
	turn("new", TurnBack)
	r.Rejected = nil
	a = try("new")
	a.By = "apply"
	a.Interrupt()
	end(a)
	turn("new", TurnBack)
}
