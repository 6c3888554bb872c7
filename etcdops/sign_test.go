package etcdops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodeagent/nodeagent/internal/layout"
)

func signer(t testing.TB) *Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signedManifest is a manifest with much in it, signed, and its file.
func signedManifest(t testing.TB, s *Signer) (Manifest, []byte) {
	t.Helper()
	m := Manifest{
		Format: ManifestFormat, Cluster: "mercury", Host: "m1", Revision: 7, Keys: 3, Size: 544, SHA256: "aa",
		Prefixes: map[string]int64{"\n  \"signature\": \"": 1, "<&>": 2}, // a key may be called anything
		Members:  []ManifestMember{{Name: "m1", ID: "1"}},
	}
	if err := m.sign(s); err != nil {
		t.Fatal(err)
	}
	content, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	return m, content
}

// TestSignatureFlips flips every bit of a signed manifest's file: none goes
// unnoticed.
func TestSignatureFlips(t *testing.T) {
	t.Parallel()
	_, content := signedManifest(t, signer(t))
	if _, err := ParseManifest("m", content); err != nil {
		t.Fatal(err)
	}
	for at := range content {
		for bit := range 8 {
			changed := bytes.Clone(content)
			changed[at] ^= 1 << bit
			if m, err := ParseManifest("m", changed); err == nil {
				t.Fatalf("bit %d of byte %d: read as %+v:\n%s", bit, at, m, changed)
			}
		}
	}
	for n := range content {
		if _, err := ParseManifest("m", content[:n]); err == nil {
			t.Fatalf("cut to %d bytes of %d: read", n, len(content))
		}
	}
}

func TestSignatureTricks(t *testing.T) {
	t.Parallel()
	m, content := signedManifest(t, signer(t))
	signed, tail, _ := cutSignature(content)
	other, _ := signedManifest(t, signer(t))
	join := func(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
	line := strings.TrimSuffix(string(tail), "}\n")
	for name, changed := range map[string][]byte{
		"more fields behind the signature": join(string(signed), strings.TrimSuffix(line, "\n"), ",\n  \"revision\": 9\n}\n"),
		"a field in front of it":           join("{\n  \"revision\": 9,", string(signed[1:]), string(tail)),
		"more text behind the end":         join(string(content), "\n"),
		"two signatures":                   join(string(signed), strings.TrimSuffix(line, "\n"), ",\n", string(tail)),
		"no signature":                     join(strings.TrimSuffix(string(signed), ",\n"), "\n}\n"),
		"an empty one":                     join(string(signed), signatureTail("")),
		"that of another key":              join(string(signed), signatureTail(other.Signature)),
		"the name of another key":          bytes.Replace(content, []byte(m.SignedBy), []byte(other.SignedBy), 1),
		"no name of a key":                 bytes.Replace(content, []byte("  \"signedBy\": \""+m.SignedBy+"\",\n"), nil, 1),
		"base64 with a line break":         join(string(signed), signatureTail(m.Signature[:10]+`\n`+m.Signature[10:])),
	} {
		if _, err := ParseManifest("m", changed); !errors.Is(err, ErrSignature) && !(name == "more text behind the end" && err != nil) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestSignatureWithOpenSSL checks a manifest with the commands of docs/design.md,
// which need nothing of ours.
func TestSignatureWithOpenSSL(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"sh", "sed", "base64", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skipf("the documented commands need %s: %v", program, err)
		}
	}
	text, err := os.ReadFile("../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```sh\n# check a manifest's signature")
	script, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("docs/design.md does not have the commands")
	}
	dir := t.TempDir()
	run := func(content []byte, key string) (string, error) {
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-euc", "# check"+script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "manifest=manifest.json", "key="+key)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	m, content := signedManifest(t, signer(t))
	if out, err := run(content, m.SignedBy); err != nil || !strings.Contains(out, "Verified Successfully") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run(bytes.Replace(content, []byte("\"keys\": 3"), []byte("\"keys\": 4"), 1), m.SignedBy); err == nil {
		t.Errorf("a manifest that was changed: %s", out)
	}
	if out, err := run(content, signer(t).PublicKey()); err == nil {
		t.Errorf("another key: %s", out)
	}
}

func TestHostSigner(t *testing.T) {
	t.Parallel()
	root := layout.Root(t.TempDir())
	keys := make([]string, 16)
	var made [16]bool
	var wait sync.WaitGroup
	for i := range keys {
		wait.Go(func() {
			s, fresh, err := HostSigner(root)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i], made[i] = s.PublicKey(), fresh
		})
	}
	wait.Wait()
	if slices.ContainsFunc(keys, func(k string) bool { return k != keys[0] }) || len(keys[0]) != 60 {
		t.Errorf("keys %v", keys)
	}
	if n := len(slices.DeleteFunc(made[:], func(m bool) bool { return !m })); n != 1 {
		t.Errorf("%d say that they have made it", n)
	}
	info, err := os.Stat(root.SnapshotKey())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(root.State()); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(root.SnapshotKey(), []byte("AAAASECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := HostSigner(root); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a damaged key: %v", err)
	}
	if content, _ := os.ReadFile(root.SnapshotKey()); string(content) != "AAAASECRET" {
		t.Error("a damaged key was replaced")
	}
}

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
