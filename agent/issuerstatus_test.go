package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// vaultHost is a host with one certificate, of which nothing but the issuer
// counts.
func vaultHost(t *testing.T) (*Host, pki.State, pki.State, time.Time) {
	t.Helper()
	h := &Host{root: layout.Root(t.TempDir())}
	h.spec.Store(&hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: pki.IssuerVault, Vault: &hosts.Vault{Address: "https://vault.example:8200"}}})
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	r := pki.Request{Name: "etcd-peer", CA: "etcd-peer"}
	have := pki.State{Certificates: []pki.Certificate{{Request: r, Found: pki.Found{Condition: pki.Sound, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(59*24*time.Hour + time.Minute)}}}}
	return h, have, pki.State{Certificates: []pki.Certificate{{Request: r}}}, now
}

// Status says for how long the host lives without Vault, when that last answered
// and what is wrong with it.
func TestIssuerStatus(t *testing.T) {
	h, have, want, now := vaultHost(t)
	s := h.issuerStatus(have, want, now)
	if s.Kind != "vault" || s.Address != "https://vault.example:8200" || *s.SurvivesDays != 59 || s.FirstToEnd != "etcd-peer" || !s.LastAnswer.IsZero() || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	if err := noteIssuer(h.root, "", now); err != nil {
		t.Fatal(err)
	}
	if err := noteIssuer(h.root, "sealed", now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	s = h.issuerStatus(have, want, now)
	if !s.LastAnswer.Equal(now) || s.Problem != "sealed" {
		t.Errorf("%+v", s)
	}
	content, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"kind":"vault"`, `"survives_until":"2027-04-29T12:01:00Z"`, `"survives_days":59`, `"last_answer":"2027-03-01T12:00:00Z"`, `"problem":"sealed"`} {
		if !strings.Contains(string(content), key) {
			t.Errorf("%s lacks %s", content, key)
		}
	}
	if problem, warning := s.judge(nil); problem != "" || !strings.Contains(warning, "lives without it for 59 days") {
		t.Errorf("problem %q, warning %q", problem, warning)
	}
	if problem, _ := s.judge([]pki.Status{{Name: "x", State: pki.StateDue}}); !strings.Contains(problem, "x is due") || !strings.Contains(problem, "sealed") {
		t.Errorf("problem %q", problem)
	}
	if s = h.issuerStatus(pki.State{}, want, now); *s.SurvivesDays != 0 || !s.SurvivesUntil.IsZero() || !strings.Contains(s.Span(), "etcd-peer is missing") {
		t.Errorf("%+v", s)
	}
	if s = h.issuerStatus(have, pki.State{}, now); s != nil {
		t.Errorf("a host without certificates has an issuer: %+v", s)
	}
	h.spec.Store(&hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: pki.IssuerLocal}})
	if s = h.issuerStatus(have, want, now); s.Kind != "local" || s.SurvivesDays != nil || s.Problem != "" {
		t.Errorf("%+v", s)
	}
}

// What fails already is a problem, what will a warning, and what only waits for
// the clock is no problem while it is valid.
func TestCertificateTrouble(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	held := pki.Status{Name: "a", State: pki.StateHeld, Reason: "the clock", RenewAt: now, NotAfter: now.Add(time.Hour)}
	ended := held
	ended.Name, ended.NotAfter = "b", now.Add(-time.Hour)
	future := held
	future.Name, future.NotBefore = "d", now.Add(time.Minute)
	s := Status{Time: now, Certificates: []pki.Status{held, ended, future, {Name: "c", State: pki.StateUnfit, Reason: "lacks a name"}}}
	s.Held = &pki.Hold{Reason: "the clock says 2000", Certificates: []string{"a", "b"}, Authorities: []string{"x"}}
	problems, warnings := s.certificateTrouble([]pki.Alarm{{Text: "soon"}, {Text: "now", Now: true}})
	if strings.Join(problems, "|") != "now" || strings.Join(warnings, "|") != "the clock says 2000; until then wait a, b, x|soon" {
		t.Errorf("problems %q, warnings %q", problems, warnings)
	}
	all := strings.Join(s.problems(&hosts.Spec{}, nil), "\n")
	if strings.Contains(all, "certificate a") || !strings.Contains(all, "certificate b is held") || !strings.Contains(all, "certificate d is held") || !strings.Contains(all, "certificate c is unfit: lacks a name") {
		t.Errorf("problems:\n%s", all)
	}
}

// TestClockWatch: what a time service corrects in passing is no step, an hour
// is; the moment is kept.
func TestClockWatch(t *testing.T) {
	var note clockNote
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	up := 10 * time.Minute
	for i, tc := range []struct {
		pass, set time.Duration // time that passes, and by how much the clock is set
		stepped   time.Duration
	}{
		{0, time.Hour, 0}, // nobody looked before
		{time.Minute, 0, 0},
		{time.Hour, 30 * time.Second, 0},
		{time.Hour, -30 * time.Second, 0},
		{time.Minute, -time.Hour, 132 * time.Minute},
		{time.Minute, 0, 132 * time.Minute},
		{time.Minute, 24 * time.Hour, 134 * time.Minute},
	} {
		up += tc.pass
		now = now.Add(tc.pass + tc.set)
		if note = note.after(up, now); note.Step != tc.stepped {
			t.Errorf("look %d: stepped at %s, want %s", i, note.Step, tc.stepped)
		}
	}
}

// TestClockNote: what the daemon noticed is known to its next process, which also
// notices what happened in between, and to other commands, which note nothing.
func TestClockNote(t *testing.T) {
	root := layout.Root(t.TempDir())
	daemon := func() *Host { return &Host{root: root, log: slog.New(slog.DiscardHandler), heed: true} }
	command := &Host{root: root}
	now, up := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC), 10*time.Minute
	look := func(what string, h *Host, want time.Duration) {
		t.Helper()
		if got := h.lookAtClock(pki.Clock{Uptime: up}, now); got.Stepped != want {
			t.Errorf("%s: set at %s, want %s", what, got.Stepped, want)
		}
	}
	look("a command on a host without the daemon", command, 0)
	if _, err := os.Stat(root.Runtime()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a command wrote something (%v)", err)
	}
	first := daemon()
	look("the daemon's first look", first, 0)
	now, up = now.Add(time.Hour+time.Minute), up+time.Minute
	look("a command after the clock was set, before the daemon has looked", command, 0)
	look("the daemon after the clock was set", first, 11*time.Minute)
	look("a command after that", command, 11*time.Minute)
	now, up = now.Add(time.Minute), up+time.Minute
	look("the next daemon", daemon(), 11*time.Minute)
	now, up = now.Add(-time.Hour), up+time.Minute
	look("a daemon after the clock was set while none ran", daemon(), 13*time.Minute)
	if err := os.WriteFile(filepath.Join(root.Runtime(), "clock.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	look("a note that nobody can read", command, 0)
	look("the next daemon with it", daemon(), 0)
	look("a command with the next note", command, 0)
}

// The watch of the clock is silent while nobody sets it, and ends.
func TestWatchClock(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	signals, err := watchClock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case _, ok := <-signals:
		t.Errorf("a signal (%v) though nobody set the clock", ok)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	select {
	case _, ok := <-signals:
		if ok {
			t.Error("a signal at the end")
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}
