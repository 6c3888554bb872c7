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

// NextDue of what is held is when the patience ends.
func TestNextDueOfWhatIsHeld(t *testing.T) {
	h := newHost(t, spec("n1", "192.0.2.1", hosts.RoleEtcd))
	h.converge()
	have, want := h.observe(), Want(h.spec)
	now := start.Add(70 * day)
	have.Clock = Clock{Unsynchronised: true, Uptime: 30 * time.Second}
	if next := NextDue(have, want, now); !next.Equal(now.Add(90 * time.Second)) {
		t.Errorf("the next moment is %s from now, want the end of the patience in 90s", next.Sub(now))
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
