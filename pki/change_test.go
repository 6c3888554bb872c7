package pki

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

func TestNext(t *testing.T) {
	use := func(proven bool, trusts, signed []string) Use {
		return Use{Host: "a", Known: true, Proven: proven, Trusts: trusts, SignedBy: signed}
	}
	old, both, fresh := []string{"old"}, []string{"old", "new"}, []string{"new"}
	begun, back := Change{Old: "old", New: "new"}, Change{Old: "old", New: "new", Back: true}
	for _, tc := range []struct {
		name   string
		change Change
		have   []string
		hosts  []Use
		want   Do
		late   int
	}{
		{"begins", Change{Old: "old"}, old, []Use{use(true, old, old)}, DoAdd, 0},
		{"hosts learn of the new one", begun, both, []Use{use(true, both, old), use(true, old, old)}, DoTrust, 1},
		{"a host has not restarted what reads it", begun, both, []Use{use(false, both, old)}, DoTrust, 1},
		{"a host says nothing", begun, both, []Use{use(true, both, old), {Host: "b"}}, DoTrust, 1},
		{"all trust both", begun, both, []Use{use(true, both, old), use(true, both, old)}, DoSwitch, 0},
		{"certificates follow", begun, []string{"new", "old"}, []Use{use(true, both, fresh), use(true, both, both)}, DoIssue, 1},
		{"certificates are not served yet", begun, []string{"new", "old"}, []Use{use(false, both, fresh)}, DoIssue, 1},
		{"all certificates are of the new one", begun, []string{"new", "old"}, []Use{use(true, both, fresh)}, DoDrop, 0},
		{"a host without certificates of it", begun, []string{"new", "old"}, []Use{use(true, both, nil)}, DoDrop, 0},
		{"the old one is forgotten", begun, fresh, []Use{use(true, both, fresh), use(true, fresh, fresh)}, DoForget, 1},
		{"done", begun, fresh, []Use{use(true, fresh, fresh)}, DoNothing, 0},

		{"back before the switch", back, both, []Use{use(true, both, old)}, DoDrop, 0},
		{"back after the switch: it is still trusted", back, []string{"new", "old"}, []Use{use(true, both, fresh)}, DoSwitch, 0},
		{"back: a host trusts only the new one", back, []string{"new", "old"}, []Use{use(true, fresh, fresh)}, DoTrust, 1},
		{"back: certificates follow", back, both, []Use{use(true, both, both)}, DoIssue, 1},
		{"back: done", back, old, []Use{use(true, old, old)}, DoNothing, 0},
	} {
		got, late := tc.change.Next(tc.have, tc.hosts)
		if got != tc.want || len(late) != tc.late {
			t.Errorf("%s: %d, late %v; want %d, %d", tc.name, got, late, tc.want, tc.late)
		}
	}
}

// ids are the key ids of a CA's authorities.
func ids(t *testing.T, issuer Rotator, ca string) []string {
	t.Helper()
	list, err := issuer.Authorities(context.Background(), ca)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, KeyID(c))
	}
	return ids
}

// TestLocalChange goes the whole road with the local issuer, and back.
func TestLocalChange(t *testing.T) {
	const ca, leaf = layout.CAEtcdPeer, layout.CertEtcdPeer
	ctx := context.Background()
	h := newHost(t, mercury())
	h.converge()
	issuer := &Local{Root: h.root, Now: func() time.Time { return h.now }}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	signer := func() string { t.Helper(); s := h.observe(); return s.Pair(leaf).SignedBy }
	old := ids(t, issuer, ca)[0]
	first := signer()

	must(issuer.Add(ctx, ca))
	must(issuer.Add(ctx, ca)) // again: nothing more
	have := ids(t, issuer, ca)
	if len(have) != 2 || have[0] != old || have[1] == old {
		t.Fatalf("after adding %v, before %s", have, old)
	}
	fresh := have[1]
	serial := pairOf(h, leaf).Serial
	h.converge()
	if s := h.observe(); !slices.Equal(s.bundle(ca).KeyIDs, have) || pairOf(h, leaf).Serial != serial {
		t.Errorf("hosts trust %v, want %v, and keep their certificates", s.bundle(ca).KeyIDs, have)
	}
	if err := issuer.Drop(ctx, ca, old); err == nil {
		t.Error("the one that signs was dropped")
	}
	must(issuer.Switch(ctx, ca, fresh))
	must(issuer.Switch(ctx, ca, fresh))
	h.converge()
	if got := signer(); got != fresh || first != old {
		t.Fatalf("signed by %s, want %s", got, fresh)
	}
	// Back, and forth again.
	must(issuer.Switch(ctx, ca, old))
	h.converge()
	if got := signer(); got != old {
		t.Fatalf("after going back signed by %s, want %s", got, old)
	}
	must(issuer.Switch(ctx, ca, fresh))
	h.converge()
	must(issuer.Drop(ctx, ca, old))
	must(issuer.Drop(ctx, ca, old))
	h.converge()
	if s := h.observe(); !slices.Equal(s.bundle(ca).KeyIDs, []string{fresh}) || !slices.Equal(ids(t, issuer, ca), []string{fresh}) {
		t.Errorf("in the end hosts trust %v, the issuer has %v", s.bundle(ca).KeyIDs, ids(t, issuer, ca))
	}
	if err := issuer.Switch(ctx, ca, old); err == nil {
		t.Error("switched to an authority that is gone")
	}
	if _, err := os.Stat(h.root.LocalCABeside(ca)); !os.IsNotExist(err) {
		t.Errorf("the old key is still there: %v", err)
	}
	h.now = h.now.Add(61 * day) // renewals go on as ever
	h.converge()
}

func pairOf(h *host, name string) Found { s := h.observe(); return s.Pair(name) }

// TestLocalChangeKilledAtEveryStep: each step is done or not done, and none
// leaves a key beside the two that belong there.
func TestLocalChangeKilledAtEveryStep(t *testing.T) {
	const ca = layout.CAK8sClient
	ctx := context.Background()
	steps := 0
	for at := 1; at == 1 || at <= steps; at++ {
		h := newHost(t, mercury())
		h.converge()
		old := ids(t, &Local{Root: h.root}, ca)[0]
		steps = 0
		// A panic that nobody below recovers stands for the kill: what deferred
		// calls clear away is what a real one would leave for the next run, which
		// TestKilledAtEveryStep covers for the same functions.
		issuer := &Local{Root: h.root, Now: func() time.Time { return h.now }, step: func(string) {
			if steps++; steps == at {
				panic("killed")
			}
		}}
		road := func() {
			if err := issuer.Add(ctx, ca); err != nil {
				t.Fatal(err)
			}
			have := ids(t, issuer, ca)
			if err := issuer.Switch(ctx, ca, other(have, old)); err != nil {
				t.Fatal(err)
			}
			if err := issuer.Drop(ctx, ca, old); err != nil {
				t.Fatal(err)
			}
		}
		killed := func() (killed bool) {
			defer func() { killed = recover() != nil }()
			road()
			return false
		}()
		h.converge() // whatever the step: hosts go on
		if have := ids(t, issuer, ca); slices.Contains(have, old) {
			road()
		}
		h.converge()
		if have := ids(t, issuer, ca); len(have) != 1 || have[0] == old {
			t.Fatalf("killed at step %d: in the end %v, the old one was %s", at, have, old)
		}
		if !killed && at <= steps {
			t.Fatalf("step %d of %d was not met", at, steps)
		}
	}
	if steps < 5 {
		t.Errorf("only %d steps were met", steps)
	}
}

// other is the key id that is not the given one.
func other(have []string, id string) string {
	for _, h := range have {
		if h != id {
			return h
		}
	}
	return ""
}
