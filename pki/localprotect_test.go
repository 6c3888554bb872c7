package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// inClear lists the files below the state folder that hold the private key of an
// authority in clear.
func (h *host) inClear() []string {
	h.t.Helper()
	var list []string
	err := filepath.WalkDir(filepath.Dir(h.root.LocalCA("x")), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if strings.Contains(readString(h.t, path), "PRIVATE KEY") {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *host) issuerOf() *Local {
	return &Local{Root: h.root, Keys: h.keys, Now: func() time.Time { return h.now }}
}

func (h *host) peer() Found {
	have := h.observe()
	return have.Pair(layout.CertEtcdPeer)
}

// keyIDs are the authorities' keys, which no protection changes.
func (h *host) keyIDs() string {
	var list []string
	for _, a := range h.observe().Authorities {
		list = append(list, a.Name+" "+a.KeyID)
	}
	return strings.Join(list, "\n")
}

// From each way in which the keys can lie to each other one leads one plan, which
// says what it does; certificates and CAs stay as they are, and can be renewed.
func TestCAKeysFromEachWayToEach(t *testing.T) {
	ways := []string{ProtectPlain, ProtectPassphrase, ProtectCredential}
	for _, from := range ways {
		for _, to := range ways {
			t.Run(from+" to "+to, func(t *testing.T) {
				t.Parallel()
				h := protected(t, from)
				h.converge()
				if clear := len(h.inClear()) > 0; clear != (from == ProtectPlain) {
					t.Fatalf("with %s in clear: %v", from, h.inClear())
				}
				before, serial := h.keyIDs(), h.peer().Serial
				h.protect(to)
				h.keys = testKeyring(h.root)
				changes := h.converge()
				if from == to && len(changes) > 0 {
					t.Errorf("changes though nothing differs:\n%s", printed(changes))
				}
				for _, c := range changes {
					if c.Effect != plan.Quiet || !strings.HasPrefix(c.Key, "CA key") {
						t.Errorf("%s %s has the effect %s", c.Action, c.Key, c.Effect)
					}
				}
				switch {
				case from == ProtectPlain && to != from:
					if c := only(t, changes, "CA key etcd-server"); c.String() != "pki: encrypt CA key etcd-server" {
						t.Errorf("the plan says %s", c)
					}
				case to == ProtectPlain && to != from:
					if c := only(t, changes, "CA key etcd-server"); c.String() != "pki: decrypt CA key etcd-server" {
						t.Errorf("the plan says %s", c)
					}
				case from != to:
					if len(changes) != 1 || changes[0].String() != "pki: encrypt CA keys" {
						t.Errorf("changes:\n%s", printed(changes))
					}
				}
				if clear := len(h.inClear()) > 0; clear != (to == ProtectPlain) {
					t.Errorf("in clear: %v", h.inClear())
				}
				if (len(glob(t, h, authorityKeySealed)) == 0) != (to == ProtectPlain) {
					t.Errorf("encrypted: %v", glob(t, h, authorityKeySealed))
				}
				if _, err := os.Lstat(h.root.LocalKeyring()); (err == nil) != (to != ProtectPlain) {
					t.Errorf("keyring: %v", err)
				}
				if h.keyIDs() != before || h.peer().Serial != serial {
					t.Error("a CA or a certificate is another one")
				}
				h.now = h.now.Add(65 * day)
				h.keys = testKeyring(h.root)
				h.converge()
			})
		}
	}
}

func glob(t testing.TB, h *host, name string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(h.root.LocalCA("*"), name))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Of two keys in one folder that differ none is written over: only a person can
// have put the other one there.
func TestTwoDifferentKeysOfOneCA(t *testing.T) {
	for _, to := range []string{ProtectPlain, ProtectCredential} {
		for name, hurt := range map[string]func(dir, other string) error{
			"another key in clear": func(dir, other string) error { return copyFile(other, filepath.Join(dir, authorityKey)) },
			"another key in clear, no certificate": func(dir, other string) error {
				return errors.Join(copyFile(other, filepath.Join(dir, authorityKey)), os.Remove(filepath.Join(dir, authorityCert)))
			},
		} {
			t.Run(name+", to "+to, func(t *testing.T) {
				h, other := protected(t, ProtectCredential), protected(t, ProtectPlain)
				h.converge()
				other.converge()
				dir := h.root.LocalCA(layout.CAEtcdPeer)
				if err := hurt(dir, filepath.Join(other.root.LocalCA(layout.CAEtcdPeer), authorityKey)); err != nil {
					t.Fatal(err)
				}
				clear, sealed := readString(t, filepath.Join(dir, authorityKey)), readString(t, filepath.Join(dir, authorityKeySealed))
				h.protect(to)
				if err := h.apply(h.diff()); err == nil || !strings.Contains(err.Error(), "are not the same key") {
					t.Error(err)
				}
				if readString(t, filepath.Join(dir, authorityKey)) != clear || readString(t, filepath.Join(dir, authorityKeySealed)) != sealed {
					t.Error("a key was written over")
				}
				if _, err := os.Lstat(h.root.LocalKeyring()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What a write that was killed left of a key in clear goes with the next apply,
// also without the secret.
func TestCAKeysLeftInTemporaryFiles(t *testing.T) {
	h := protected(t, ProtectCredential)
	h.converge()
	dir := h.root.LocalCA(layout.CAEtcdPeer)
	for _, at := range []string{dir, filepath.Dir(dir)} {
		left := filepath.Join(at, atomicfile.TempPrefix+"1")
		if err := errors.Join(os.Mkdir(left+"d", 0o700), os.WriteFile(left, []byte("PRIVATE KEY"), 0o600), os.WriteFile(filepath.Join(left+"d", authorityKey), []byte("PRIVATE KEY"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.inClear()) != 4 {
		t.Fatalf("in clear: %v", h.inClear())
	}
	h.keys = nil
	h.converge()
	if list := h.inClear(); len(list) > 0 {
		t.Errorf("in clear: %v", list)
	}
}

// The keyring stays while anything below the folder needs it.
func TestTheKeyringStaysForStrayKeys(t *testing.T) {
	h := protected(t, ProtectCredential)
	h.converge()
	stray := h.root.LocalCA("etcd-peer.of-a-person")
	if err := errors.Join(os.Mkdir(stray, 0o700), copyFile(filepath.Join(h.root.LocalCA(layout.CAEtcdPeer), authorityKeySealed), filepath.Join(stray, authorityKeySealed))); err != nil {
		t.Fatal(err)
	}
	h.protect(ProtectPlain)
	if err := h.apply(h.diff()); err == nil || !strings.Contains(err.Error(), stray) || !strings.Contains(err.Error(), "move it out of") {
		t.Error(err)
	}
	if err := testKeyring(h.root).Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(stray); err != nil {
		t.Fatal(err)
	}
	h.converge()
}

// The keys of an authority that is added lie as those of the one that signs, and
// a change goes all the way; encryption that is turned on while there are two
// takes both.
func TestChangeOfACAWithEncryptedKeys(t *testing.T) {
	const ca = layout.CAEtcdPeer
	h := protected(t, ProtectCredential)
	h.converge()
	old := ids(t, h.issuerOf(), ca)[0]
	if err := h.issuerOf().Add(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	if list := h.inClear(); len(list) > 0 {
		t.Fatalf("in clear: %v", list)
	}
	h.converge()
	h.protect(ProtectPlain)
	h.converge()
	if len(h.inClear()) != 6 {
		t.Fatalf("in clear: %v", h.inClear())
	}
	h.protect(ProtectPassphrase)
	if c := only(t, h.converge(), "CA key "+ca+" beside"); c.Action != plan.ActionEncrypt {
		t.Errorf("%s", c)
	}
	if list := h.inClear(); len(list) > 0 {
		t.Fatalf("in clear: %v", list)
	}
	fresh := ids(t, h.issuerOf(), ca)[1]
	if err := h.issuerOf().Switch(t.Context(), ca, fresh); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if got := h.peer().SignedBy; got != fresh {
		t.Errorf("signed by %s, want %s", got, fresh)
	}
	if err := h.issuerOf().Drop(t.Context(), ca, old); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if list := ids(t, h.issuerOf(), ca); !slices.Equal(list, []string{fresh}) {
		t.Errorf("authorities %v", list)
	}
}

// What is lost or damaged is a person's to put back: nothing is made anew over
// it, and certificates stay.
func TestDamagedCAKeys(t *testing.T) {
	sealedOf := func(h *host, ca string) string { return filepath.Join(h.root.LocalCA(ca), authorityKeySealed) }
	for name, tc := range map[string]struct {
		hurt func(h *host) error
		says string
	}{
		"keyring lost":      {func(h *host) error { return os.Remove(h.root.LocalKeyring()) }, "keyring.json is missing"},
		"keyring cut off":   {func(h *host) error { return os.Truncate(h.root.LocalKeyring(), 100) }, "keyring.json is not JSON"},
		"key lost":          {func(h *host) error { return os.Remove(sealedOf(h, layout.CAEtcdPeer)) }, "ca.key is missing"},
		"key cut off":       {func(h *host) error { return os.Truncate(sealedOf(h, layout.CAEtcdPeer), 200) }, "ca.key.age is no armored age file"},
		"key of another CA": {func(h *host) error { return copyFile(sealedOf(h, layout.CAEtcdServer), sealedOf(h, layout.CAEtcdPeer)) }, "do not belong together"},
		"keyring of another host": {func(h *host) error {
			other := protected(h.t, ProtectCredential)
			other.converge()
			return copyFile(other.root.LocalKeyring(), h.root.LocalKeyring())
		}, "cannot be opened by"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := protected(t, ProtectCredential)
			h.converge()
			before := tree(t, filepath.Join(h.root.PKI(), "certs"))
			if err := tc.hurt(h); err != nil {
				t.Fatal(err)
			}
			h.keys = testKeyring(h.root)
			h.now = h.now.Add(65 * day)
			err := h.apply(h.diff())
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "back from") {
				t.Errorf("error %v, want one with %q", err, tc.says)
			}
			if strings.HasPrefix(name, "keyring") && tree(t, filepath.Join(h.root.PKI(), "certs")) != before {
				t.Error("certificates changed")
			}
			if list := h.inClear(); len(list) > 0 {
				t.Errorf("in clear: %v", list)
			}
		})
	}
}

// A certificate of a CA that is lost is made anew for the encrypted key, and
// nothing that the key signed is issued again.
func TestLostCertificateOfAnEncryptedCA(t *testing.T) {
	h := protected(t, ProtectCredential)
	h.converge()
	before, serial := h.keyIDs(), h.peer().Serial
	if err := os.Remove(filepath.Join(h.root.LocalCA(layout.CAEtcdPeer), authorityCert)); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if h.keyIDs() != before || h.peer().Serial != serial {
		t.Error("the key, or what it signed, is another one")
	}
}

// With another issuer the keys of CAs that were made here are left alone.
func TestCAKeysOfAnotherIssuersTime(t *testing.T) {
	h := protected(t, ProtectCredential)
	h.converge()
	h.spec.PKI.Issuer, h.spec.PKI.Local, h.spec.PKI.Vault = IssuerVault, nil, nil
	for _, c := range h.diff() {
		if strings.HasPrefix(c.Key, "CA key") {
			t.Errorf("%s: %s", c, c.Reason)
		}
	}
}

// Neither plans nor reports hold a key or a secret, and the files on disk are as
// private as they must be.
func TestCAKeysAreNotShown(t *testing.T) {
	h := protected(t, ProtectPlain)
	h.converge()
	key := strings.Split(readString(t, filepath.Join(h.root.LocalCA(layout.CAEtcdPeer), authorityKey)), "\n")[1]
	h.protect(ProtectPassphrase)
	changes := h.converge()
	var shown bytes.Buffer
	fmt.Fprintf(&shown, "%+v\n%+v\n%+v", changes, h.observe(), Powers(h.root, h.spec, h.observe(), h.now))
	for _, secret := range []string{testPassphrase, key, "AGE-SECRET-KEY"} {
		if strings.Contains(shown.String(), secret) {
			t.Errorf("%q is shown", secret)
		}
		if strings.Contains(readString(t, h.root.LocalKeyring()), secret) {
			t.Errorf("%q lies on disk", secret)
		}
	}
	for _, path := range append(glob(t, h, authorityKeySealed), h.root.LocalKeyring()) {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range h.converge() {
		if !strings.HasPrefix(c.Key, "mode ") {
			t.Errorf("%s", c)
		}
	}
}
