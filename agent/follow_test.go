package agent

import (
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// TestFollowerKnowsOfAChange: who looks at the issuer every five seconds does so
// for as long as something is to be heard.
func TestFollowerKnowsOfAChange(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	host := &Host{}
	host.spec.Store(&hosts.Spec{Name: "h"})
	two := map[string][]string{pki.KeyServiceAccount: {"new", "old"}}
	for _, tc := range []struct {
		name    string
		report  pki.Report
		rekeyed time.Time
		want    bool
	}{
		{"nothing is to be heard", pki.Report{Proven: true}, time.Time{}, false},
		{"this host has not caught up", pki.Report{}, time.Time{}, true},
		{"two authorities are trusted", pki.Report{Proven: true, Trust: map[string][]string{layout.CAK8sServer: {"b", "a"}}}, time.Time{}, true},
		{"one is", pki.Report{Proven: true, Trust: map[string][]string{layout.CAK8sServer: {"b"}}}, time.Time{}, false},
		{"a key has just been changed, one in use", pki.Report{Proven: true}, now.Add(-time.Second), true},
		{"the slowest host restarts its API server", pki.Report{Proven: true, Keys: two}, now.Add(-3 * time.Minute), true},
		{"the old key verifies for a day", pki.Report{Proven: true, Keys: two}, now.Add(-time.Hour), false},
	} {
		f := &follower{host: host, rekeyed: tc.rekeyed}
		if got := f.changing(tc.report, now); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
