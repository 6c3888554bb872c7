package vault

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// stopper is an issuer that stops the server once it has been asked to sign so
// many certificates.
type stopper struct {
	pki.Issuer
	after int32
	stop  func()
	asked atomic.Int32
}

func (s *stopper) Sign(ctx context.Context, r pki.Request, csr []byte) ([]byte, error) {
	if s.asked.Add(1) == s.after+1 {
		s.stop()
	}
	return s.Issuer.Sign(ctx, r, csr)
}

// TestVaultStopsInARotation: what was issued before it stopped is in use, of the
// rest the pairs from before stay, whole and matching; each is told in one line.
// Once it runs again the next look completes.
func TestVaultStopsInARotation(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n1")
		applier := pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) { return n.Issuer, nil }}
		stopping := pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) {
			return &stopper{Issuer: n.Issuer, after: 4, stop: w.server.Stop}, nil
		}}
		want := pki.Want(n.spec)
		observe := func() pki.State {
			t.Helper()
			have, err := pki.Observe(t.Context(), n.root)
			if err != nil {
				t.Fatal(err)
			}
			return have
		}
		if err := applier.Apply(t.Context(), pki.Diff(observe(), want, time.Now()), plan.Silent{}); err != nil {
			t.Fatal(err)
		}
		before := observe()
		due := time.Now().Add(25 * 24 * time.Hour) // of 30, 10 before the end
		changes := pki.Diff(before, want, due)
		if len(changes) < 8 {
			t.Fatalf("only %d are due", len(changes))
		}
		err := stopping.Apply(t.Context(), changes, plan.Silent{})
		if pki.CauseOf(err) != pki.CauseUnreachable || !strings.Contains(err.Error(), "nobody listens at") {
			t.Errorf("error %v", err)
		}
		have := observe()
		renewed := 0
		for _, c := range want.Certificates {
			f := have.Pair(c.Name)
			if f.Condition != pki.Sound || f.SignedBy == "" || len(f.Leftovers) > 0 {
				t.Errorf("certificate %s: %+v", c.Name, f)
			}
			if f.Unfit != nil {
				t.Errorf("certificate %s is taken for one that Vault does not sign: %s", c.Name, f.Unfit.Reason)
			}
			if f.Serial != before.Pair(c.Name).Serial {
				renewed++
			}
		}
		if renewed < 1 || renewed == len(want.Certificates) {
			t.Errorf("%d of %d certificates are renewed", renewed, len(want.Certificates))
		}
		for _, s := range pki.List(have, want, time.Now()) {
			if s.State != pki.StateOK {
				t.Errorf("status of %s: %s, %s", s.Name, s.State, s.Reason)
			}
		}
		if until, _ := pki.Survival(have, want, time.Now()); time.Until(until) < 29*24*time.Hour {
			t.Errorf("the host lives without Vault until %s", until)
		}
		w.server.Restart()
		waitFor(t, "vault answers", func() bool {
			return applier.Apply(t.Context(), changes, plan.Silent{}) == nil
		})
		have = observe()
		for _, c := range want.Certificates {
			if have.Pair(c.Name).Serial == before.Pair(c.Name).Serial {
				t.Errorf("certificate %s is not renewed", c.Name)
			}
		}
	})
}

// waitFor polls until it is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}
