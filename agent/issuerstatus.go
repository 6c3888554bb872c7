package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// IssuerStatus is who issues this host's certificates, and for how long the host
// lives without.
type IssuerStatus struct {
	// Kind is "local" or "vault", Address that of Vault.
	Kind    string `json:"kind"`
	Address string `json:"address,omitempty"`
	// SurvivesUntil is when the first certificate of a component ends, FirstToEnd,
	// and SurvivesDays how many whole days that is. The zero time and 0 where one
	// is missing or has ended; all three are left out of a local issuer that the
	// host has with it and can use.
	SurvivesUntil time.Time `json:"survives_until,omitzero"`
	SurvivesDays  *int      `json:"survives_days,omitempty"`
	FirstToEnd    string    `json:"first_to_end,omitempty"`
	// LastAnswer is when `nodeagent run` last heard of Vault, and Problem why not
	// since. The zero time where it has not since the host booted. With the local
	// issuer Problem is why the keys of its CAs cannot be opened.
	LastAnswer time.Time `json:"last_answer,omitzero"`
	Problem    string    `json:"problem,omitempty"`
}

// issuerStatus is nil on a host without certificates.
func (h *Host) issuerStatus(have, want pki.State, now time.Time) *IssuerStatus {
	if len(want.Certificates) == 0 {
		return nil
	}
	spec := h.Spec()
	s := &IssuerStatus{Kind: spec.PKI.Issuer}
	note, err := readIssuerNote(h.root)
	if s.Kind != pki.IssuerVault {
		if encrypted := have.CAKeys.Condition != pki.Missing || want.CAKeys.Protection != "" && want.CAKeys.Protection != pki.ProtectPlain; encrypted && err == nil && note.Problem != "" {
			s.Problem = note.Problem
			s.survives(have, want, now)
		}
		return s
	}
	s.Address = spec.PKI.Vault.Address
	s.survives(have, want, now)
	if err != nil {
		s.Problem = fmt.Sprintf("when it last answered is not known: %v", err)
		return s
	}
	s.LastAnswer, s.Problem = note.Answered, note.Problem
	return s
}

func (s *IssuerStatus) survives(have, want pki.State, now time.Time) {
	days := 0
	s.SurvivesUntil, s.FirstToEnd = pki.Survival(have, want, now)
	if !s.SurvivesUntil.IsZero() {
		days = int(s.SurvivesUntil.Sub(now) / (24 * time.Hour))
	}
	s.SurvivesDays = &days
}

// judge says what makes the host not healthy: an issuer that does not answer
// while certificates are due; "" while there is time. The warning is what should
// be known before.
func (s *IssuerStatus) judge(certificates []pki.Status) (problem, warning string) {
	if s == nil || s.Problem == "" {
		return "", ""
	}
	fails := "does not answer"
	if s.Kind == pki.IssuerLocal {
		fails = "cannot issue"
	}
	for _, c := range certificates {
		if c.State == pki.StateDue {
			return fmt.Sprintf("certificate %s is due, and the issuer %s: %s", c.Name, fails, s.Problem), ""
		}
	}
	return "", fmt.Sprintf("the issuer %s (%s); %s", fails, s.Problem, s.Span())
}

// Span says in words for how long the host lives without its issuer.
func (s *IssuerStatus) Span() string {
	switch {
	case s.SurvivesDays == nil:
		return "it is on this host"
	case s.SurvivesUntil.IsZero():
		return "this host does not live without it: " + s.FirstToEnd + " is missing or not valid"
	}
	days := "days"
	if *s.SurvivesDays == 1 {
		days = "day"
	}
	return fmt.Sprintf("this host lives without it for %d %s, until %s ends on %s", *s.SurvivesDays, days, s.FirstToEnd, s.SurvivesUntil.UTC().Format("2006-01-02 15:04 MST"))
}

// certificateWarnings are what a person who plans should know of certificates,
// though no change says it.
func (h *Host) certificateWarnings(ctx context.Context) []string {
	have, _ := h.observePKI(ctx) // domain pki tells what could not be seen
	var list []string
	for _, a := range pki.Alarms(have, pki.Want(h.Spec()), time.Now()) {
		list = append(list, a.Text)
	}
	return list
}

// issuerNote is what the daemon last heard of the issuer. It lies in a folder
// that is gone with the boot.
type issuerNote struct {
	Answered time.Time `json:"answered,omitzero"`
	Problem  string    `json:"problem,omitempty"`
}

func issuerNotePath(root layout.Root) string { return filepath.Join(root.Runtime(), "issuer.json") }

func readIssuerNote(root layout.Root) (issuerNote, error) {
	var n issuerNote
	content, err := os.ReadFile(issuerNotePath(root))
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &n)
	}
	return n, err
}

// noteIssuer writes down whether the issuer answered, for status.
func noteIssuer(root layout.Root, problem string, now time.Time) error {
	before, _ := readIssuerNote(root) // one that cannot be read is written anew
	n := issuerNote{Answered: before.Answered, Problem: problem}
	if problem == "" {
		n.Answered = now.UTC()
	}
	content, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(root.Runtime(), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(issuerNotePath(root), content, 0o600)
}
