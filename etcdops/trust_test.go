package etcdops

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTrust(t *testing.T) {
	t.Parallel()
	one, two, stranger := signer(t).PublicKey(), signer(t).PublicKey(), signer(t).PublicKey()
	fleet := Signers{"m1": {one, two}, "m2": {}, "m3": {stranger}}
	nobody := Signers{"m1": nil, "m2": nil}
	by := func(host, key string) *Manifest { return &Manifest{Host: host, SignedBy: key} }
	for name, tc := range map[string]struct {
		trust Trust
		m     *Manifest
		want  SignatureState // empty: refused
		text  string
	}{
		"today's key":                      {Trust{Signers: fleet}, by("m1", one), SignatureTrusted, "signed by m1"},
		"a key of before":                  {Trust{Signers: fleet}, by("m1", two), SignatureTrusted, "signed by m1"},
		"another host's key":               {Trust{Signers: fleet}, by("m1", stranger), "", "none of that host's keys"},
		"no signature":                     {Trust{Signers: fleet}, by("m1", ""), "", "has no signature of that host"},
		"no signature, accepted":           {Trust{Signers: fleet, Unsigned: true}, by("m1", ""), SignatureAccepted, "NOT SIGNED"},
		"another key, accepted":            {Trust{Signers: fleet, Unsigned: true}, by("m1", stranger), SignatureAccepted, "NOT SIGNED"},
		"good, though unsigned is allowed": {Trust{Signers: fleet, Unsigned: true}, by("m1", one), SignatureTrusted, "signed by m1"},
		"a host that has named none":       {Trust{Signers: fleet}, by("m2", stranger), SignatureUnchecked, "names no key of m2"},
		"it, without a signature":          {Trust{Signers: fleet}, by("m2", ""), SignatureNone, "names no key of m2"},
		"a host that the fleet has not":    {Trust{Signers: fleet}, by("m9", one), "", "no host of the fleet"},
		"no manifest":                      {Trust{Signers: fleet}, nil, "", "another program"},
		"no manifest, accepted":            {Trust{Signers: fleet, Unsigned: true}, nil, SignatureAccepted, "NOT SIGNED"},
		"fleet without keys":               {Trust{Signers: nobody}, by("m1", one), SignatureUnchecked, "names no key"},
		"fleet without keys, none":         {Trust{Signers: nobody}, by("m9", ""), SignatureNone, "not signed"},
		"fleet without keys, no manifest":  {Trust{Signers: nobody}, nil, SignatureNone, "without a manifest"},
		"no fleet":                         {Trust{}, by("m1", one), SignatureUnchecked, "not checked against a fleet"},
		"no fleet, no signature":           {Trust{}, by("m1", ""), SignatureNone, "not signed"},
		"no fleet, no manifest":            {Trust{}, nil, SignatureNone, "without a manifest"},
	} {
		got, err := tc.trust.judge(tc.m)
		if (err == nil) != (tc.want != "") || err != nil && !errors.Is(err, ErrNotSigned) || got.State != tc.want {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, tc.want)
		}
		if said := fmt.Sprint(got.Text, err); !strings.Contains(said, tc.text) {
			t.Errorf("%s: said %q, want %q", name, said, tc.text)
		}
	}
}

// TestSignedSnapshot: what a host of the fleet signs is believed, and what was
// changed or made by others is refused before anything is touched.
func TestSignedSnapshot(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	key, made, err := HostSigner(h.Root)
	if err != nil || !made {
		t.Fatal(err)
	}
	opts := h.saveOptions()
	opts.Signer = key
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	path := m.Path(opts.Dir)
	verify := func(trust Trust) (Report, error) {
		return Verify(t.Context(), path, VerifyOptions{OpenOptions: OpenOptions{Trust: trust}})
	}
	fleet := Trust{Signers: Signers{"m1": {key.PublicKey()}}}
	if r, err := verify(fleet); err != nil || r.Signature.State != SignatureTrusted || !r.Signature.Sure() {
		t.Errorf("%+v, %v", r.Signature, err)
	}
	if r, err := verify(Trust{}); err != nil || r.Signature.State != SignatureUnchecked {
		t.Errorf("%+v, %v", r.Signature, err)
	}
	if _, err := verify(Trust{Signers: Signers{"m1": {signer(t).PublicKey()}}}); !errors.Is(err, ErrNotSigned) {
		t.Errorf("another host's: %v", err)
	}
	restore := h.restoreOptions(path)
	restore.Trust = Trust{Signers: Signers{"m1": {signer(t).PublicKey()}}}
	if _, err := PlanRestore(t.Context(), restore); !errors.Is(err, ErrNotSigned) {
		t.Errorf("restore of another host's: %v", err)
	}

	// A host name that was changed, so that the fleet has no key of it.
	content, err := os.ReadFile(manifestPath(path))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(content, []byte(`"host": "m1"`), []byte(`"host": "m2"`), 1)
	if err := os.WriteFile(manifestPath(path), changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(Trust{}); !errors.Is(err, ErrManifestMismatch) || !errors.Is(err, ErrSignature) {
		t.Errorf("a changed manifest: %v", err)
	}
	entries, err := List(opts.Dir)
	if err != nil || len(entries) != 1 || entries[0].Good() || !strings.Contains(entries[0].Damage, "signature") {
		t.Errorf("listed as %+v, %v", entries, err)
	}
	if err := os.Remove(manifestPath(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(fleet); !errors.Is(err, ErrNotSigned) {
		t.Errorf("without its manifest: %v", err)
	}
	fleet.Unsigned = true
	if r, err := verify(fleet); err != nil || r.Signature.State != SignatureAccepted {
		t.Errorf("accepted: %+v, %v", r.Signature, err)
	}
}
