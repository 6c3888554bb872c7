package pki

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// What opens the CAs' keys in tests.
const (
	testPassphrase = "correct horse battery staple"
	testCredential = "kM1Yb3zq8Tq0Jm5vJ2m3Xw4r6s9uBvCxDyEzF0gHiJk="
)

var testSecrets = map[string]string{ProtectPassphrase: testPassphrase, ProtectCredential: testCredential}

// testKeyring has both secrets, and makes little work of the passphrase.
func testKeyring(root layout.Root) *Keyring {
	return &Keyring{Root: root, workFactor: 4, Secret: func(_ context.Context, ask SecretAsk) (string, error) {
		return testSecrets[ask.Protection], nil
	}}
}

// protected is a host whose CAs' keys are to lie as said.
func protected(t testing.TB, how string) *host {
	h := newHost(t, mercury())
	h.protect(how)
	h.keys = testKeyring(h.root)
	return h
}

func (h *host) protect(how string) { h.spec.PKI.Local = &hosts.LocalIssuer{CAKeys: how} }

// Planning, and everything else that signs nothing, asks for no secret.
func TestCAKeysArePlannedWithoutTheSecret(t *testing.T) {
	h := protected(t, ProtectPassphrase)
	h.converge()
	h.keys = &Keyring{Root: h.root, Secret: func(context.Context, SecretAsk) (string, error) {
		t.Error("the secret was asked for")
		return "", errors.New("none")
	}}
	h.now = h.now.Add(65 * day) // everything is due
	if len(h.diff()) == 0 {
		t.Error("nothing is due")
	}
	for _, ca := range layout.CAs()[:2] {
		if _, err := h.issuerOf().Bundle(t.Context(), ca); err != nil {
			t.Error(err)
		}
		if _, err := h.issuerOf().Authorities(t.Context(), ca); err != nil {
			t.Error(err)
		}
	}
	_ = Powers(h.root, h.spec, h.observe(), h.now)
}

// One apply asks for the secret once, however much is signed; a wrong one is
// tried once.
func TestTheSecretIsAskedForOnce(t *testing.T) {
	h := protected(t, ProtectPassphrase)
	asked := 0
	secret := testPassphrase
	h.keys.Secret = func(context.Context, SecretAsk) (string, error) { asked++; return secret, nil }
	h.converge()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	h.keys.Forget()
	h.now = h.now.Add(65 * day)
	h.converge()
	if asked != 2 {
		t.Errorf("asked %d times after it was forgotten", asked)
	}
	h.keys.Forget()
	secret = "another passphrase"
	h.now = h.now.Add(65 * day)
	if err := h.apply(h.diff()); CauseOf(err) != CauseLocked {
		t.Fatal(err)
	}
	if h.keys.wrong == ([32]byte{}) {
		t.Error("that it is wrong was not remembered")
	}
	if err := h.keys.Check(t.Context()); CauseOf(err) != CauseLocked {
		t.Error(err)
	}
	secret = testPassphrase
	if err := h.keys.Check(t.Context()); err != nil {
		t.Error(err)
	}
	h.keys.Forget()
	h.converge()
}

// Without the right secret certificates stay, each refusal is one line that says
// what to do, the secret is in none, and once it is there all goes on.
func TestWithoutTheSecret(t *testing.T) {
	for _, tc := range []struct {
		name   string
		secret func() (string, error)
		says   string
	}{
		{"none", func() (string, error) { return "", Locked(errors.New("there is no file"), "put it there") }, "put it there"},
		{"wrong", func() (string, error) { return "a wrong passphrase", nil }, "nodeagent certs passphrase"},
		{"empty", func() (string, error) { return "", nil }, "nodeagent certs passphrase"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := protected(t, ProtectPassphrase)
			h.converge()
			before := h.peer().Serial
			h.keys = &Keyring{Root: h.root, Secret: func(context.Context, SecretAsk) (string, error) { return tc.secret() }}
			h.now = h.now.Add(65 * day)
			if err := os.Remove(h.root.Trust(layout.CAEtcdPeer)); err != nil {
				t.Fatal(err)
			}
			err := h.apply(h.diff())
			if CauseOf(err) != CauseLocked || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one with %q", err, tc.says)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.Contains(line, tc.says) || strings.Contains(line, "wrong passphrase") {
					t.Errorf("line %q", line)
				}
			}
			have := h.observe()
			if have.certificate(layout.CertEtcdPeer).Found.Serial != before || have.certificate(layout.CertEtcdPeer).Found.Condition != Sound {
				t.Error("the certificate did not stay")
			}
			if b := have.bundle(layout.CAEtcdPeer); b == nil || b.Condition != Sound {
				t.Error("what needs no key waits")
			}
			h.keys = testKeyring(h.root)
			h.converge()
		})
	}
}

// What waits for the secret is told in one line, however much it is, and what
// does not wait is done: a fresh host makes its other keys, and keeps no CA.
func TestWhatWaitsForTheSecret(t *testing.T) {
	for _, how := range []string{ProtectPassphrase, ProtectCredential} {
		h := protected(t, how)
		nobody := func(context.Context, SecretAsk) (string, error) {
			return "", Locked(errors.New("there is no file"), "put it there")
		}
		h.keys = &Keyring{Root: h.root, Secret: nobody}
		err := h.apply(h.diff())
		if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "put it there") || !strings.HasPrefix(lines[1], "issue authority etcd-server and ") || CauseOf(err) != CauseLocked {
			t.Errorf("%s on a fresh host: %v", how, err)
		}
		have := h.observe()
		if len(have.Authorities) > 0 || have.key(KeyServiceAccount).Condition != Sound {
			t.Errorf("%s: authorities %v, keys %v", how, have.Authorities, have.Keys)
		}
		h.keys = testKeyring(h.root)
		h.converge()
		h.keys = &Keyring{Root: h.root, Secret: nobody}
		h.now = h.now.Add(65 * day)
		if err := h.apply(h.diff()); err == nil || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "renew certificate ") {
			t.Errorf("%s with certificates that are due: %v", how, err)
		}
		h.protect(ProtectPlain)
		h.keys.Forget()
		if err := h.apply(h.diff()); err == nil || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "decrypt CA key etcd-server and ") {
			t.Errorf("%s, to plain: %v", how, err)
		}
	}
}

// A person may mistype, and is not asked for each certificate anew.
func TestAPersonMayMistype(t *testing.T) {
	h := protected(t, ProtectPassphrase)
	h.converge()
	h.now = h.now.Add(65 * day)
	var asked []bool
	right := 99
	h.keys = &Keyring{Root: h.root, Secret: func(_ context.Context, ask SecretAsk) (string, error) {
		if asked = append(asked, ask.Again); len(asked) == right {
			return testPassphrase, nil
		}
		return fmt.Sprintf("mistyped %d", len(asked)), nil
	}}
	if err := h.apply(h.diff()); CauseOf(err) != CauseLocked {
		t.Error(err)
	}
	if err := h.apply(h.diff()); CauseOf(err) != CauseLocked {
		t.Error(err)
	}
	if !slices.Equal(asked, []bool{false, true, true}) {
		t.Errorf("asked %v", asked)
	}
	h.keys.Forget()
	asked, right = nil, 3
	h.converge()
	if len(asked) != 3 {
		t.Errorf("asked %v", asked)
	}
}

// A key that is damaged behind its whole envelope, or is that of another CA, is
// told before it is needed; and again only when something has changed.
func TestCheckOpensEachKey(t *testing.T) {
	sealedOf := func(h *host, ca string) string { return filepath.Join(h.root.LocalCA(ca), authorityKeySealed) }
	for name, tc := range map[string]struct {
		hurt func(h *host) error
		says string
	}{
		"of another CA": {func(h *host) error { return copyFile(sealedOf(h, layout.CAEtcdServer), sealedOf(h, layout.CAEtcdPeer)) }, "do not belong together: put both back"},
		"of another host": {func(h *host) error {
			other := protected(h.t, ProtectCredential)
			other.converge()
			return copyFile(sealedOf(other, layout.CAEtcdPeer), sealedOf(h, layout.CAEtcdPeer))
		}, "from one backup"},
	} {
		t.Run(name, func(t *testing.T) {
			h := protected(t, ProtectCredential)
			h.converge()
			if err := h.keys.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			whole := readString(t, sealedOf(h, layout.CAEtcdPeer))
			if err := tc.hurt(h); err != nil {
				t.Fatal(err)
			}
			if err := h.keys.Check(t.Context()); err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"etcd-peer"`) {
				t.Error(err)
			}
			if err := os.WriteFile(sealedOf(h, layout.CAEtcdPeer), []byte(whole), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := h.keys.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A secret that guards nothing is refused before anything relies on it.
func TestWeakSecretsAreRefused(t *testing.T) {
	for how, secret := range map[string]string{ProtectPassphrase: "hunter2", ProtectCredential: "correct horse battery staple"} {
		h := protected(t, how)
		h.keys.Secret = func(context.Context, SecretAsk) (string, error) { return secret, nil }
		err := h.apply(h.diff())
		if err == nil || !strings.Contains(err.Error(), "characters, want") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", how, err)
		}
		if list := h.inClear(); len(list) > 0 {
			t.Errorf("%s: in clear: %v", how, list)
		}
		h.keys = testKeyring(h.root)
		h.converge()
	}
}

// Another passphrase takes effect at once, and the old one opens nothing more.
func TestChangeOfThePassphrase(t *testing.T) {
	h := protected(t, ProtectPassphrase)
	h.converge()
	const next = "another horse battery staple"
	if err := h.keys.Change(t.Context(), "short"); err == nil {
		t.Error("a short passphrase was taken")
	}
	if err := h.keys.Change(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if left := h.diff(); len(left) > 0 {
		t.Errorf("left:\n%s", printed(left))
	}
	if err := testKeyring(h.root).Check(t.Context()); CauseOf(err) != CauseLocked {
		t.Errorf("the old passphrase: %v", err)
	}
	h.keys = &Keyring{Root: h.root, Secret: func(context.Context, SecretAsk) (string, error) { return next, nil }}
	h.now = h.now.Add(65 * day)
	h.converge()
	plain := protected(t, ProtectPlain)
	plain.converge()
	if err := plain.keys.Change(t.Context(), next); err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Error(err)
	}
}

func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, content, 0o600))
}
