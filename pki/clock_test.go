package pki

import (
	"testing"
	"time"
)

// A clock that is wrong for a while, at a boot without a battery or by a bad
// time server, costs renewals only: with each new time one converge makes
// everything valid at that time, and nothing is left to do then.
func TestClockJumps(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	right := h.now
	for _, now := range []time.Time{time.Unix(0, 0).UTC(), right, right.AddDate(30, 0, 0), right, right.Add(-time.Hour), right} {
		h.now = now
		h.converge()
		have, want := h.observe(), Want(h.spec)
		if changes := Diff(have, want, now); len(changes) > 0 {
			t.Fatalf("at %s is left:\n%s", now, printed(changes))
		}
		for _, c := range have.Certificates {
			if now.Before(c.Found.NotBefore) || !now.Before(c.Found.NotAfter) || c.Found.NotAfter.Sub(now) > 10*365*day {
				t.Errorf("at %s %s is valid from %s to %s", now, c.Name, c.Found.NotBefore, c.Found.NotAfter)
			}
		}
	}
}
