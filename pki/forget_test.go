package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// movedSpec is the crash host after its move to Vault.
func movedSpec() *hosts.Spec {
	s := crashSpec()
	s.PKI.Issuer = IssuerVault
	return s
}

// movedHost has certificates and bundles of other authorities than those of the
// local issuer that lie on it, one of them with a second one beside it, as after
// a change that was never brought to its end.
func movedHost(t *testing.T, how string) *host {
	t.Helper()
	h := newHost(t, crashSpec())
	h.protect(how)
	h.keys = testKeyring(h.root)
	h.converge()
	folder, kept := filepath.Dir(h.root.LocalCA("x")), filepath.Join(string(h.root), "kept")
	if err := os.Rename(folder, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.root.PKI()); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if err := errors.Join(os.RemoveAll(folder), os.Rename(kept, folder)); err != nil {
		t.Fatal(err)
	}
	if err := (&Local{Root: h.root, Keys: h.keys}).Add(t.Context(), layout.CAK8sServer); err != nil {
		t.Fatal(err)
	}
	h.spec = movedSpec()
	return h
}

// forgetLocal does what `nodeagent pki forget-local` does, with an issuer that
// vouches for what the host trusts.
func forgetLocal(root layout.Root, step func(string)) error {
	have, err := Observe(context.Background(), root)
	if err != nil {
		return err
	}
	vouched := map[string][]string{}
	for _, b := range have.Trust {
		vouched[b.CA] = b.KeyIDs
	}
	changes, kept := Forget(LeftAuthorities(root), have, Want(movedSpec()), vouched)
	if len(kept) > 0 {
		return errors.New(strings.Join(kept, "; "))
	}
	return (&Applier{Root: root, step: step}).Apply(context.Background(), changes, plan.Silent{})
}

// signingKeys are the files with a key of an authority, wherever they lie and
// whatever they are called, and what opens those that are encrypted.
func signingKeys(t *testing.T, root layout.Root) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root.State(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(path, root.PKI()+"/") {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), "PRIVATE KEY") || strings.HasSuffix(path, ".age") || path == root.LocalKeyring() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestForgetKilledAtEveryStep kills forget-local at each of its steps. Nothing
// that is in use is touched; each key that is left is one that a plan, or the
// next forget-local, knows of, and that one leaves none.
func TestForgetKilledAtEveryStep(t *testing.T) {
	t.Setenv(crashForget, "yes")
	for _, how := range []string{ProtectPlain, ProtectPassphrase} {
		t.Run(how, func(t *testing.T) { forgetKilled(t, how) })
	}
}

func forgetKilled(t *testing.T, how string) {
	at := 1
	for killed := true; killed; at++ {
		h := movedHost(t, how)
		if n := len(signingKeys(t, h.root)); n < 3 {
			t.Fatalf("%d keys of authorities lie on the host", n)
		}
		before := h.observe()
		killed = runToCrash(t, h.root, start, at)
		seen := h.observe()
		if !reflect.DeepEqual(seen.Certificates, before.Certificates) || !reflect.DeepEqual(seen.Trust, before.Trust) || !reflect.DeepEqual(seen.Keys, before.Keys) {
			t.Fatalf("killed at step %d: what is in use has changed", at)
		}
		for _, path := range signingKeys(t, h.root) {
			if !found(path, h.root, seen) {
				t.Fatalf("killed at step %d: nobody would find the key %s again", at, path)
			}
		}
		if err := forgetLocal(h.root, nil); err != nil {
			t.Fatalf("killed at step %d: run again: %v", at, err)
		}
		if left := signingKeys(t, h.root); len(left) > 0 {
			t.Fatalf("killed at step %d: run again, there is left %v", at, left)
		}
		if left, err := os.ReadDir(filepath.Dir(h.root.LocalCA("x"))); len(left) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("killed at step %d: run again, in the folder of the CAs there is left %v (%v)", at, left, err)
		}
		if a, ok := leftAlarm(h.observe(), Want(h.spec)); ok {
			t.Fatalf("killed at step %d: run again, an alarm says %q", at, a.Text)
		}
	}
	if at < 10 {
		t.Errorf("only %d steps were met", at)
	}
	t.Logf("killed at each of %d steps", at-2)
}

// found tells whether a key lies where the local issuer keeps them, or where a
// plan removes what an interrupted run left.
func found(path string, root layout.Root, have State) bool {
	if path == root.LocalKeyring() {
		return have.CAKeys.Condition == Sound
	}
	for _, l := range LeftAuthorities(root) {
		if strings.HasPrefix(path, root.LocalCA(l.Name)) {
			return true
		}
	}
	for _, c := range Diff(have, Want(movedSpec()), start) {
		if place, ok := strings.CutPrefix(c.Key, "leftover "); ok && strings.HasPrefix(path, place) {
			return true
		}
	}
	return false
}

// TestForgetKeeps: whatever needs an authority, or might, keeps it.
func TestForgetKeeps(t *testing.T) {
	const ca = layout.CAK8sServer
	left := []LeftAuthority{{Name: ca, Cluster: "mercury", KeyIDs: []string{"old", "beside"}}}
	trusts := func(ids ...string) State { return State{Trust: []Bundle{{CA: ca, Condition: Sound, KeyIDs: ids}}} }
	signed := trusts("new")
	signed.Certificates = []Certificate{{Found: Found{Condition: Sound, SignedBy: "beside"}}}
	damaged := trusts("new")
	damaged.Trust[0].Condition, damaged.Trust[0].Problem = Damaged, "is not PEM"
	unreadable := []LeftAuthority{{Name: ca, KeyIDs: []string{""}}}
	for _, tc := range []struct {
		name    string
		left    []LeftAuthority
		have    State
		vouched []string
		why     string // "" where it may go
	}{
		{"nobody trusts it", left, trusts("new"), []string{"new"}, ""},
		{"the issuer vouches for it", left, trusts("new"), []string{"new", "old"}, "rotate-ca k8s-server"},
		{"the issuer vouches for the one beside it", left, trusts("new"), []string{"beside"}, "rotate-ca k8s-server"},
		{"the issuer has nothing", left, trusts("new"), nil, "the issuer has no CA in its place"},
		{"the host is behind", left, trusts("old", "new"), []string{"new"}, "follows within two minutes"},
		{"the host trusts nothing else", left, trusts("old"), []string{"new"}, "this host still trusts it"},
		{"the host's bundle cannot be read", left, damaged, []string{"new"}, "is not PEM"},
		{"a certificate in use is of the one beside it", left, signed, []string{"new"}, "is signed by it"},
		{"it cannot be read", unreadable, trusts("new"), []string{"new"}, "remove its folder yourself"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changes, kept := Forget(tc.left, tc.have, Want(movedSpec()), map[string][]string{ca: tc.vouched})
			got := fmt.Sprint(kept)
			if tc.why == "" && (len(changes) != 1 || len(kept) != 0) || tc.why != "" && (len(changes) != 0 || !strings.Contains(got, tc.why)) {
				t.Errorf("goes: %d, stays: %s; want %q", len(changes), got, tc.why)
			}
		})
	}
	if changes, kept := Forget(left, trusts("new"), Want(crashSpec()), map[string][]string{ca: {"new"}}); len(changes) != 0 || len(kept) != 1 {
		t.Errorf("the CAs of a host whose issuer is the local one would go: %v", changes)
	}
}
