package pki

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// counting counts how often the issuer is asked for a certificate, and may sign
// something else.
type counting struct {
	*Local
	asked  *tally
	change func(*Request) error
}

// tally counts by name; several may count at once.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) count(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	t.counts[name]++
}

func (t *tally) of(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[name]
}

func (c counting) Sign(ctx context.Context, r Request, csr []byte) ([]byte, error) {
	c.asked.count(r.Name)
	if c.change == nil {
		return c.Local.Sign(ctx, r, csr)
	}
	asked, err := parseCSR(r, csr)
	if err != nil {
		return nil, err
	}
	if err := c.change(&r); err != nil {
		return nil, err
	}
	return signFor(c.Local, r, asked.PublicKey)
}

// TestUnfitIsNotAskedForInALoop: what an issuer will not sign is asked for again
// after a growing pause, at once when the spec asks for something else, and when
// a person does; the pair in use stays.
func TestUnfitIsNotAskedForInALoop(t *testing.T) {
	const name = layout.CertAPIServer
	for _, tc := range []struct {
		name   string
		change func(*Request) error
		says   string
	}{
		{"a missing name", func(r *Request) error { r.DNSNames = r.DNSNames[1:]; return nil }, "lacks the names"},
		{"a refusal", func(r *Request) error {
			return &Refusal{Cause: CauseUnfit, What: "sign", Err: errors.New("not allowed by this role")}
		}, "not allowed by this role"},
		{"a life that is over", func(r *Request) error { r.Lifetime = -Backdate; return nil }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, mercury())
			h.converge()
			before := h.observe()
			h.now = start.Add(65 * day)
			issuer := counting{&Local{Root: h.root, Now: func() time.Time { return h.now }}, &tally{}, tc.change}
			h.issuer = issuer
			look := func() error { // as the daemon does, over and over
				var last error
				for range 5 {
					var changes []plan.Change
					for _, c := range h.diff() {
						if c.Key == "certificate "+name {
							changes = append(changes, c)
						}
					}
					if err := h.apply(changes); err != nil {
						last = err
					}
				}
				return last
			}
			err := look()
			if tc.says == "" { // two clocks differ: no reason to wait
				if have := h.observe(); err == nil || have.Pair(name).Unfit != nil || issuer.asked.of(name) != 5 {
					t.Errorf("asked %d times, error %v", issuer.asked.of(name), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tc.says)
			}
			have, want := h.observe(), Want(h.spec)
			if issuer.asked.of(name) != 1 || have.Pair(name).Serial != before.Pair(name).Serial {
				t.Errorf("asked %d times, or the pair is another one", issuer.asked.of(name))
			}
			s := statusOf(have, want, h.now, name)
			if s.State != StateUnfit || !strings.Contains(s.Reason, tc.says) || !strings.Contains(s.Reason, "asked again in 15 minutes") {
				t.Errorf("status %q: %s", s.State, s.Reason)
			}
			h.now = h.now.Add(firstUnfitPause)
			_ = look()
			h.now = h.now.Add(firstUnfitPause)
			_ = look()
			if issuer.asked.of(name) != 2 {
				t.Errorf("asked %d times within two pauses, want 2", issuer.asked.of(name))
			}
			// A person who has mended the issuer does not wait.
			if c := only(t, Diff(h.observe().AskAgain(), want, h.now), "certificate "+name); c.Action != plan.ActionRenew {
				t.Errorf("a person's plan has %s", c)
			}
			// Another spec is asked for at once, and with a good answer it is forgotten.
			h.spec.PKI.ExtraNames = append(h.spec.PKI.ExtraNames, "further.example.org")
			issuer.change = nil
			h.issuer = issuer
			h.converge()
			if have := h.observe(); issuer.asked.of(name) != 3 || have.Pair(name).Unfit != nil {
				t.Errorf("asked %d times, still remembered: %+v", issuer.asked.of(name), have.Pair(name).Unfit)
			}
		})
	}
}

// A host without the certificate has not converged, but the issuer is left
// alone all the same.
func TestUnfitOfAMissingCertificate(t *testing.T) {
	const name = layout.CertKubeProxy
	h := newHost(t, mercury())
	issuer := counting{&Local{Root: h.root, Now: func() time.Time { return h.now }}, &tally{}, func(r *Request) error {
		if r.Name == name {
			r.CommonName = "somebody"
		}
		return nil
	}}
	h.issuer = issuer
	for range 4 {
		if err := h.apply(h.diff()); err == nil || !strings.Contains(err.Error(), `common name is "somebody"`) {
			t.Fatalf("error %v", err)
		}
	}
	if issuer.asked.of(name) != 1 || issuer.asked.of(layout.CertAdmin) != 1 {
		t.Errorf("asked %v", issuer.asked.counts)
	}
	have := h.observe()
	if s := statusOf(have, Want(h.spec), h.now, name); s.State != StateUnfit {
		t.Errorf("status %+v", s)
	}
	// Once no role asks for it nothing of it stays.
	want := Want(h.spec)
	want.Certificates = nil
	if err := h.apply(Diff(have, want, h.now)); err != nil {
		t.Fatal(err)
	}
	if have := h.observe(); len(have.Certificates) > 0 {
		t.Errorf("there is left %+v", have.Certificates)
	}
}

// TestFreshCertificateOfTheWrongSigner: one that would be replaced at once is
// used, and not asked for again before the trust bundle is another one.
func TestFreshCertificateOfTheWrongSigner(t *testing.T) {
	elsewhere := newHost(t, mercury())
	elsewhere.converge()
	h := newHost(t, spec("n3", "192.0.2.3", "worker"))
	h.spec.PKI.Issuer = IssuerVault
	if err := makeAuthority(t.Context(), disk{}, elsewhere.root, nil, Authority{Name: layout.CANodeagent, Cluster: "mercury", Lifetime: 3650 * day}, start); err != nil {
		t.Fatal(err)
	}
	issuer := &twoSigners{counting{&Local{Root: elsewhere.root, Now: func() time.Time { return h.now }}, &tally{}, nil}, readString(t, elsewhere.root.Trust(layout.CAK8sServer))}
	h.issuer = issuer
	for range 4 {
		if err := h.apply(h.diff()); err != nil {
			t.Fatal(err)
		}
	}
	if n := issuer.asked.of(layout.CertKubeProxy); n != 1 {
		t.Errorf("asked %d times", n)
	}
	have := h.observe()
	if s := statusOf(have, Want(h.spec), h.now, layout.CertKubeProxy); s.State != StateUnfit || !strings.Contains(s.Reason, "another authority signs") {
		t.Errorf("status %+v", s)
	}
	issuer.first = "" // now the bundle begins with who signs
	if err := h.apply(Obtain(Want(h.spec), layout.CertKubeletClient, "a test")[:1]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := h.apply(h.diff()); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.diff()) > 0 || issuer.asked.of(layout.CertKubeProxy) != 1 {
		t.Errorf("left: %s", printed(h.diff()))
	}
}

// twoSigners puts another authority before the one that signs.
type twoSigners struct {
	counting
	first string
}

func (s *twoSigners) Bundle(ctx context.Context, ca string) ([]byte, error) {
	content, err := s.counting.Bundle(ctx, ca)
	if ca == layout.CAK8sClient {
		content = append([]byte(s.first), content...)
	}
	return content, err
}

func TestUnfitPauses(t *testing.T) {
	for _, tc := range []struct {
		left     time.Duration // of the pair in use; 0 for none
		attempts int
		want     time.Duration
	}{
		{0, 1, 15 * time.Minute},
		{0, 3, time.Hour},
		{0, 99, 12 * time.Hour},
		{25 * day, 1, 15 * time.Minute},
		{time.Hour, 9, 45 * time.Minute},
		{time.Second, 9, time.Minute},
		{-time.Hour, 2, 30 * time.Minute},
	} {
		end := time.Time{}
		if tc.left != 0 {
			end = start.Add(tc.left)
		}
		u := &Unfit{At: start, Attempts: tc.attempts}
		if got := u.until(end).Sub(start); got != tc.want {
			t.Errorf("%s left, %d attempts: after %s, want %s", tc.left, tc.attempts, got, tc.want)
		}
	}
}
