package pki

import (
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// TestClockHolds is the whole decision: whether issuing waits, why and how long.
func TestClockHolds(t *testing.T) {
	const minute = time.Minute
	future := start.Add(time.Hour)
	for _, tc := range []struct {
		name   string
		clock  Clock
		newest time.Time
		usable bool
		says   string // "" for nothing held
		left   time.Duration
	}{
		{"nothing is known", Clock{}, future, true, "", 0},
		{"synchronised", Clock{Uptime: minute}, time.Time{}, true, "", 0},
		{"synchronised, and what is on disk was issued by a clock in the future", Clock{Uptime: minute}, future, true, "", 0},
		{"synchronised before the build: somebody built with a wrong clock", Clock{Uptime: minute, Built: future}, time.Time{}, true, "", 0},
		{"booting, with a pair", Clock{Unsynchronised: true, Uptime: minute}, time.Time{}, true, "not synchronised yet", minute},
		{"a first installation", Clock{Unsynchronised: true, Uptime: minute}, time.Time{}, false, "", 0},
		{"two minutes after the boot", Clock{Unsynchronised: true, Uptime: 2 * minute}, time.Time{}, true, "", 0},
		{"a first installation before the build", Clock{Unsynchronised: true, Uptime: minute, Built: future}, time.Time{}, false, "was built on", 4 * minute},
		{"a time before what is on disk", Clock{Unsynchronised: true, Uptime: 3 * minute}, future, true, "begins on", 2 * minute},
		{"five minutes after the boot", Clock{Unsynchronised: true, Uptime: 5 * minute, Built: future}, future, true, "", 0},
		{"set back long after the boot", Clock{Unsynchronised: true, Uptime: 60 * minute, Stepped: 59 * minute}, future, true, "begins on", 4 * minute},
		{"set forth long after the boot", Clock{Unsynchronised: true, Uptime: 60 * minute, Stepped: 59 * minute}, time.Time{}, true, "not synchronised yet", minute},
		{"the time service was not heard for hours", Clock{Unsynchronised: true, Vouched: true, Uptime: minute}, future, true, "", 0},
		{"set by somebody after a time service", Clock{Unsynchronised: true, Vouched: true, Uptime: 60 * minute, Stepped: 59 * minute}, future, true, "begins on", 4 * minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reason, left := tc.clock.holds(start, tc.newest, tc.usable)
			if left != tc.left || (reason == "") != (tc.says == "") || !strings.Contains(reason, tc.says) {
				t.Errorf("held for %s because %q, want %s and %q", left, reason, tc.left, tc.says)
			}
		})
	}
}

// TestJumpedClock: a clock that jumped makes nothing to be thrown away while
// nobody vouches for it; when the patience is over, or somebody does, what is
// needed is issued.
func TestJumpedClock(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	for _, tc := range []struct {
		name string
		now  time.Time
		wait time.Duration
		// changes tells that what waits shows in the plan: the pairs are not valid.
		changes bool
	}{
		{"back, before they begin", start.Add(-day), wrongClockPatience, true},
		{"forth, behind their ends", start.Add(91 * day), clockPatience, true},
		{"forth, to where they are due", start.Add(70 * day), clockPatience, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have, want := h.observe(), Want(h.spec)
			name := layout.CertKubeProxy
			have.Clock = Clock{Unsynchronised: true, Uptime: time.Second}
			s := statusOf(have, want, tc.now, name)
			if s.State != StateHeld || !strings.Contains(s.Reason, "synchronised") {
				t.Errorf("status %q because %q, want it held", s.State, s.Reason)
			}
			for _, c := range Diff(have, want, tc.now) {
				if _, held := c.Payload.(heldOp); c.Action == plan.ActionIssue && !held || c.Action == plan.ActionRenew && !held {
					t.Errorf("%s, because %s", c, c.Reason)
				}
				if c.Key == "certificate "+name && !tc.changes {
					t.Errorf("%s, though the pair is valid", c)
				}
			}
			if tc.changes {
				c := only(t, Diff(have, want, tc.now), "certificate "+name)
				if err := h.apply([]plan.Change{c}); err == nil || !strings.Contains(err.Error(), "synchronised") {
					t.Errorf("applying what is held: %v", err)
				}
			}
			have.Clock.Uptime = tc.wait
			if c := only(t, Diff(have, want, tc.now), "certificate "+name); c.Action != plan.ActionIssue && c.Action != plan.ActionRenew {
				t.Errorf("after %s: %s", tc.wait, c)
			} else if _, held := c.Payload.(heldOp); held {
				t.Errorf("after %s it is held still: %s", tc.wait, c.Reason)
			}
			have.Clock = Clock{Uptime: time.Second}
			if _, held := only(t, Diff(have, want, tc.now), "certificate "+name).Payload.(heldOp); held {
				t.Error("held although the clock is synchronised")
			}
		})
	}
}

// TestFirstInstallationDoesNotWait: on a host that has nothing, only a clock that
// is certainly wrong holds anything back, and it ends.
func TestFirstInstallationDoesNotWait(t *testing.T) {
	h := newHost(t, mercury())
	want := Want(h.spec)
	held := func(c Clock) (n int) {
		for _, c := range Diff(State{Clock: c}, want, start) {
			if _, ok := c.Payload.(heldOp); ok {
				n++
			}
		}
		return n
	}
	all := len(want.Certificates) + len(want.Authorities)
	for _, tc := range []struct {
		clock Clock
		want  int
	}{
		{Clock{Unsynchronised: true, Built: start.Add(-time.Minute)}, 0},
		{Clock{Unsynchronised: true, Built: start.Add(time.Minute)}, all},
		{Clock{Unsynchronised: true, Built: start.Add(time.Minute), Uptime: wrongClockPatience}, 0},
		{Clock{Built: start.Add(time.Minute)}, 0},
	} {
		if got := held(tc.clock); got != tc.want {
			t.Errorf("%+v: %d held, want %d", tc.clock, got, tc.want)
		}
	}
	have := State{Clock: Clock{Unsynchronised: true, Built: start.Add(time.Minute), Uptime: wrongClockPatience}}
	if list := Alarms(have, want, start); len(list) != 1 || !strings.Contains(list[0].Text, "issued all the same") {
		t.Errorf("what is issued by a wrong clock comes without a warning: %v", list)
	}
}

// NextDue of what is held is when the patience ends, whether or not there is a
// pair to go on with.
func TestNextDueOfWhatIsHeld(t *testing.T) {
	h := newHost(t, spec("n1", "192.0.2.1", hosts.RoleEtcd))
	h.converge()
	have, want := h.observe(), Want(h.spec)
	fresh := State{Clock: Clock{Built: start.Add(time.Minute)}}
	for _, tc := range []struct {
		name    string
		have    State
		now     time.Time
		left    time.Duration
		changes bool
	}{
		{"due", have, start.Add(70 * day), 90 * time.Second, false},
		{"ended", have, start.Add(91 * day), 90 * time.Second, true},
		{"not begun", have, start.Add(-day), 270 * time.Second, true},
		{"authorities ended", have, start.AddDate(20, 0, 0), 90 * time.Second, true},
		{"nothing there, and a clock that is wrong", fresh, start, 270 * time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have := tc.have
			have.Clock.Unsynchronised, have.Clock.Uptime = true, 30*time.Second
			// Trust bundles and keys wait for nothing; they were made in the first round.
			want := want
			if len(have.Certificates) == 0 {
				want.Trust, want.Keys = nil, nil
			}
			if next := NextDue(have, want, tc.now); !next.Equal(tc.now.Add(tc.left)) {
				t.Errorf("the next moment is %s from now, want the end of the patience in %s", next.Sub(tc.now), tc.left)
			}
			if changes := len(Diff(have, want, tc.now)) > 0; changes != tc.changes {
				t.Errorf("changes to wait for: %v, want %v", changes, tc.changes)
			}
			held := HeldBack(have, want, tc.now)
			if held == nil || !held.Until.Equal(tc.now.Add(tc.left)) || !strings.Contains(held.String(), "until then wait etcd-peer, etcd-server") {
				t.Errorf("held back: %v", held)
			}
			for _, s := range List(have, want, tc.now) {
				if s.State != StateHeld || !s.WaitsUntil.Equal(held.Until) {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// Of many changes that wait for the clock one error is left, in one line.
func TestHeldIsOneError(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	have, want := h.observe(), Want(h.spec)
	have.Clock = Clock{Unsynchronised: true, Uptime: time.Second}
	err := h.apply(Diff(have, want, start.Add(-day)))
	if err == nil || strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "nothing is issued") != 1 {
		t.Fatalf("the changes wait with: %v", err)
	}
	for _, c := range want.Certificates {
		if !strings.Contains(err.Error(), "certificate "+c.Name) {
			t.Errorf("%s is not named: %v", c.Name, err)
		}
	}
}

// Nothing is said of a clock that may be right while nothing waits for it.
func TestNothingHeldBack(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	have, want := h.observe(), Want(h.spec)
	have.Clock = Clock{Unsynchronised: true, Uptime: time.Second}
	if held := HeldBack(have, want, start.Add(day)); held != nil {
		t.Errorf("said of a clock that may be right: %v", held)
	}
	have.Clock.Built = start.Add(30 * day)
	if held := HeldBack(have, want, start.Add(5*day)); held == nil || len(held.Certificates) > 1 {
		t.Errorf("of a clock that is wrong: %v", held)
	}
	have.Clock.Unsynchronised = false
	if held := HeldBack(have, want, start.Add(5*day)); held != nil {
		t.Errorf("of a clock that is synchronised: %v", held)
	}
}

// ObserveClock agrees with the kernel of this machine.
func TestObserveClock(t *testing.T) {
	c := ObserveClock()
	if c.Uptime <= 0 || c.Stepped != 0 {
		t.Errorf("%+v", c)
	}
	if c.Built.After(time.Now()) {
		t.Errorf("this program was built on %s, in the future", c.Built)
	}
}
