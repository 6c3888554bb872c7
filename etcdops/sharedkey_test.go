package etcdops

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
)

func sharedKey(t testing.TB, version int) *SharedKey {
	t.Helper()
	k := &SharedKey{Path: "nodeagent/mercury/secrets/snapshots", Version: version, Secret: make([]byte, SharedKeySize)}
	if _, err := rand.Read(k.Secret); err != nil {
		t.Fatal(err)
	}
	return k
}

// vaultOf is a place that has these keys.
func vaultOf(keys ...*SharedKey) *SharedIdentity {
	return &SharedIdentity{Context: context.Background(), Lookup: func(_ context.Context, path string, version int) ([]byte, error) {
		for _, k := range keys {
			if k.Path == path && k.Version == version {
				return k.Secret, nil
			}
		}
		return nil, fmt.Errorf("no version %d of %s", version, path)
	}}
}

func TestSharedKey(t *testing.T) {
	t.Parallel()
	first, second := sharedKey(t, 1), sharedKey(t, 2)
	fileKey := make([]byte, 16)
	if _, err := rand.Read(fileKey); err != nil {
		t.Fatal(err)
	}
	stanzas, err := first.Wrap(fileKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := first.Wrap(fileKey)
	if err != nil || bytes.Equal(again[0].Body, stanzas[0].Body) {
		t.Errorf("wrapped to the same twice: %v", err)
	}
	if got, err := vaultOf(second, first).Unwrap(stanzas); err != nil || !bytes.Equal(got, fileKey) {
		t.Errorf("unwrapped %x, %v", got, err)
	}
	if _, err := vaultOf(second).Unwrap(stanzas); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "vault:nodeagent/mercury/secrets/snapshots@1") {
		t.Errorf("without the key: %v", err)
	}
	if _, err := vaultOf(&SharedKey{Path: first.Path, Version: 1, Secret: second.Secret}).Unwrap(stanzas); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("with another key in its place: %v", err)
	}
	if _, err := vaultOf(first).Unwrap([]*age.Stanza{{Type: "X25519"}}); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("of another kind: %v", err)
	}
	for i := range stanzas[0].Args {
		damaged := *stanzas[0]
		damaged.Args = append([]string{}, stanzas[0].Args...)
		damaged.Args[i] = "7"
		if got, err := vaultOf(first, second).Unwrap([]*age.Stanza{&damaged}); err == nil {
			t.Errorf("with argument %d changed: %x", i, got)
		}
	}
	damaged := *stanzas[0]
	damaged.Body = bytes.Clone(damaged.Body)
	damaged.Body[0] ^= 1
	if _, err := vaultOf(first).Unwrap([]*age.Stanza{&damaged}); !errors.Is(err, age.ErrIncorrectIdentity) {
		t.Errorf("with the body changed: %v", err)
	}
	if _, err := (&SharedKey{Path: "p", Version: 1, Secret: []byte("short")}).Wrap(fileKey); err == nil {
		t.Error("a short key was used")
	}
}

// TestSharedKeyIsNotPrinted: no verb prints the secret.
func TestSharedKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	k := sharedKey(t, 3)
	copy(k.Secret, "SECRETSECRET")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{k, *k, []any{k}, Sealing{Recipients: []age.Recipient{k}}} {
			got := fmt.Sprintf(verb, value)
			if strings.Contains(got, "SECRET") || strings.Contains(got, fmt.Sprintf("%x", "SECRET")) || strings.Contains(got, "83 69 67") {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	}
}

// TestSaveToVault: either of those whom a snapshot is encrypted to opens it, and
// the manifest says who they are.
func TestSaveToVault(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	key, person := sharedKey(t, 4), identity(t)
	opts := h.saveOptions()
	opts.Sealing = Sealing{Compress: true, Recipients: []age.Recipient{person.Recipient(), key}}
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{person.Recipient().String(), "vault:nodeagent/mercury/secrets/snapshots@4"}
	if len(m.OpenedBy) != 2 || m.OpenedBy[0] != want[0] || m.OpenedBy[1] != want[1] {
		t.Errorf("opened by %v, want %v", m.OpenedBy, want)
	}
	for name, tc := range map[string]struct {
		identities []age.Identity
		locked     string
	}{
		"the person":           {identities: []age.Identity{person}},
		"Vault":                {identities: []age.Identity{vaultOf(key)}},
		"the person, no Vault": {identities: []age.Identity{person, vaultOf()}},
		"a stranger, Vault":    {identities: []age.Identity{identity(t), vaultOf(key)}},
		"no Vault":             {identities: []age.Identity{vaultOf()}, locked: "cannot be had: no version 4"},
		"a stranger":           {identities: []age.Identity{identity(t)}, locked: "openedBy"},
	} {
		_, err := Verify(t.Context(), m.Path(opts.Dir), VerifyOptions{OpenOptions: OpenOptions{Identities: tc.identities}})
		if errors.Is(err, ErrLocked) != (tc.locked != "") || (err == nil) != (tc.locked == "") || err != nil && !strings.Contains(err.Error(), tc.locked) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
