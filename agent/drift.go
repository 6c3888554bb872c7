package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// A domain whose drift is only reported is made once in a boot for what its
// spec wants, as a host comes up with nothing and a spec is changed on purpose.
// From then on a difference is drift, and the daemon only tells of it; a person's
// apply repairs it. Certificates are renewed all the same: that one ends is no
// drift.

// made says by domain for which want, and in which boot, it was last made.
type made map[string]madeOnce

type madeOnce struct {
	Want string `json:"want"` // its digest
	Boot string `json:"boot"`
}

// driftLog is what the daemon knows of domains whose drift is only reported.
type driftLog struct {
	mu   sync.Mutex
	said map[string]string // by domain: the differences that were logged
}

// news tells whether the differences of a domain are others than the last time;
// none are no news at first.
func (l *driftLog) news(domain, differences string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said == nil {
		l.said = map[string]string{}
	}
	is := l.said[domain] != differences
	l.said[domain] = differences
	return is
}

func (h *Host) madePath() string { return filepath.Join(h.root.State(), "made.json") }

// loadMade reads the record. One that cannot be read is as none: what it is
// about is then made once more.
func (h *Host) loadMade() (made, error) {
	m := made{}
	content, err := os.ReadFile(h.madePath())
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &m)
	}
	if err != nil {
		return made{}, fmt.Errorf("read which domains were made: %w", err)
	}
	return m, nil
}

// reports tells whether drift of the domain is only reported.
func (h *Host) reports(domain string) bool { return h.Spec().Drift[domain] == hosts.DriftReport }

// convergeReporting is [Converge] for the daemon, where the drift of some of the
// domains is only reported.
func (h *Host) convergeReporting(ctx context.Context, domains []Domain, rep plan.Reporter) Result {
	h.mades.Lock() // two lanes, one file
	record, err := h.loadMade()
	h.mades.Unlock()
	if err != nil {
		h.log.Warn("domains whose drift is only reported are made again", "error", err)
	}
	now, err := confirm.Now()
	if err != nil {
		h.log.Warn("drift is repaired, though it should only be reported", "error", err)
		return Converge(ctx, domains, rep)
	}
	wants := map[string]madeOnce{}
	wrapped := slices.Clone(domains)
	for i, d := range domains {
		if !h.reports(d.Name()) {
			continue
		}
		digest, err := wantDigest(ctx, d)
		if err != nil {
			continue // planning meets the same error and names it
		}
		is := madeOnce{digest, now.Boot}
		if record[d.Name()] == is {
			wrapped[i] = reportOnly{d, h}
		} else {
			wants[d.Name()] = is
		}
	}
	result := Converge(ctx, wrapped, rep)
	for _, o := range result {
		if !o.Converged() {
			delete(wants, o.Domain)
		}
	}
	if err := h.keepMade(wants); err != nil {
		h.log.Warn("domains whose drift is only reported will be made again", "error", err)
	}
	return result
}

// keepMade adds to the record.
func (h *Host) keepMade(news made) error {
	if len(news) == 0 {
		return nil
	}
	h.mades.Lock()
	defer h.mades.Unlock()
	record, _ := h.loadMade() // one that cannot be read is replaced
	for name, is := range news {
		record[name] = is
	}
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(h.madePath(), append(content, '\n'), 0o600)
}

// wantDigest tells the wants of a domain apart.
func wantDigest(ctx context.Context, d Domain) (string, error) {
	wants, ok := d.(interface {
		Wants(ctx context.Context) (any, error)
	})
	if !ok {
		return "", fmt.Errorf("domain %q does not tell what it wants", d.Name())
	}
	want, err := wants.Wants(ctx)
	if err != nil {
		return "", err
	}
	content, err := json.Marshal(want)
	if err != nil {
		return "", fmt.Errorf("domain %q: %w", d.Name(), err)
	}
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Wants returns the wanted state, as JSON can hold it.
func (v verbs[S]) Wants(ctx context.Context) (any, error) { return v.want(ctx) }

// reportOnly is a domain whose differences are told and not changed.
type reportOnly struct {
	Domain
	host *Host
}

// Plan leaves out what drifted, and logs it once.
func (r reportOnly) Plan(ctx context.Context) ([]plan.Change, error) {
	changes, err := r.Domain.Plan(ctx)
	due, drift := splitDrift(changes)
	r.host.figures.drifted(r.Name(), len(drift))
	text := describe(drift)
	if r.host.drift.news(r.Name(), text) {
		if text == "" {
			r.host.log.Info("drift is gone", "domain", r.Name())
		} else {
			r.host.log.Warn("the host is not as its spec says, which is only reported: nodeagent apply repairs it",
				"domain", r.Name(), "drift", text, "noticed", causeOf(ctx))
		}
	}
	return due, err
}

// splitDrift parts what is due in any case from what has drifted.
func splitDrift(changes []plan.Change) (due, drift []plan.Change) {
	for _, c := range changes {
		if c.Action == plan.ActionRenew {
			due = append(due, c)
		} else {
			drift = append(drift, c)
		}
	}
	return due, drift
}

func describe(changes []plan.Change) string {
	words := make([]string, len(changes))
	for i, c := range changes {
		words[i] = fmt.Sprintf("%s %s", c.Action, c.Key)
	}
	return strings.Join(words, ", ")
}
