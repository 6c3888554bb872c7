package clock

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pki"
)

const day = 24 * time.Hour

// TestClock is the life of a host whose clock is set again and again.
func TestClock(t *testing.T) {
	requireGuest(t)
	today := time.Now()
	h := newHost(t)
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"a first installation waits for no time service", func(t *testing.T) {
			set(t, today)
			h.start(t, 30*time.Second)
			h.becomesOK(t, nil)
			synchronise(t)
		}},
		{"forth to where all are due", func(t *testing.T) {
			before := h.serials(t)
			correct(t, h.renewals(t).Add(time.Minute))
			h.becomesOK(t, before)
		}},
		{"forth behind the ends of all, the authorities' too", func(t *testing.T) {
			before := h.serials(t)
			correct(t, today.AddDate(30, 0, 0))
			h.becomesOK(t, before)
		}},
		{"back to before all begin", func(t *testing.T) {
			before := h.serials(t)
			correct(t, today)
			h.becomesOK(t, before)
		}},
		{"a person sets it back, a time service forth again", func(t *testing.T) {
			before := h.serials(t)
			h.seen = len(h.logged(t))
			set(t, today.AddDate(-10, 0, 0))
			h.isHeld(t, before, "until it is synchronised", "certificate that begins on")
			out := h.run(t, 1, "apply", "--only", "pki")
			if !strings.Contains(out, "until it is synchronised") {
				t.Errorf("apply while the clock is wrong says:\n%s", out)
			}
			correct(t, today.Add(time.Minute))
			until(t, "certificates that are well", func() (bool, string) {
				l := h.list(t)
				return slices.Equal(l.states(), []string{pki.StateOK}) && l.Held == nil, fmt.Sprintf("%+v", l)
			})
			h.isUntouched(t, before)
		}},
		{"a boot in the year 2000", func(t *testing.T) {
			before := h.serials(t)
			due := h.renewals(t).Add(time.Minute)
			h.stop(t)
			set(t, time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC))
			h.start(t, time.Second)
			h.isHeld(t, before, "until it is synchronised", "the clock says 2000-01-01")
			problems, warnings := h.status(t)
			if !strings.Contains(problems, "certificate etcd-peer is held") || !strings.Contains(warnings, "until then wait etcd-peer") {
				t.Errorf("problems of a host without a valid certificate:\n%s\nwarnings:\n%s", problems, warnings)
			}
			correct(t, due) // it was off for weeks
			h.becomesOK(t, before)
		}},
		{"a boot with a clock that is right, as a time service finds", func(t *testing.T) {
			before := h.serials(t)
			due := h.renewals(t).Add(time.Minute)
			h.stop(t)
			set(t, due)
			h.start(t, time.Second)
			h.isHeld(t, before, "noticed=start", "not synchronised yet")
			synchronise(t) // and does not set it
			h.becomesOK(t, before)
		}},
		{"a clock that nobody corrects", func(t *testing.T) {
			before := h.serials(t)
			h.stop(t)
			const left = 8 * time.Second // of five minutes
			booted := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
			set(t, booted)
			h.start(t, 5*time.Minute-left)
			h.becomesOK(t, before)
			for name, c := range h.certificates(t) {
				// The uptime is known to a second.
				if issued := c.NotBefore.Add(pki.Backdate); issued.Before(booted.Add(left - 2*time.Second)) {
					t.Errorf("certificate %s was issued %s before the limit", name, booted.Add(left).Sub(issued))
				}
			}
			before = h.serials(t)
			correct(t, today.Add(200*day))
			h.becomesOK(t, before)
		}},
	} {
		if !t.Run(step.name, step.do) {
			return
		}
	}
	h.run(t, 0, "plan", "--exit-code", "--only", "pki")
	h.counts(t)
}
