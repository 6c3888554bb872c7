package etcdops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// TestOldManifests: those of before are read, without what they could not say,
// and a later one than we know is not.
func TestOldManifests(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Manifest{
		`{"format": 1, "cluster": "c", "host": "h", "size": 544, "sha256": "aa", "encryptionKey": "sha256:1"}`: {
			Format: 1, Cluster: "c", Host: "h", Size: 544, SHA256: "aa", EncryptionKey: "sha256:1", Stored: Stored{Size: 544, SHA256: "aa"},
		},
		`{"format": 2, "cluster": "c", "size": 544, "sha256": "aa", "stored": {"compression": "zstd", "size": 9, "sha256": "bb"}}`: {
			Format: 2, Cluster: "c", Size: 544, SHA256: "aa", Stored: Stored{Form: Form{Compression: "zstd"}, Size: 9, SHA256: "bb"},
		},
	} {
		got, err := ParseManifest("m", []byte(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if _, err := ParseManifest("m", []byte(`{"format": 4}`)); err == nil || !strings.Contains(err.Error(), "reads up to 3") {
		t.Errorf("a later one: %v", err)
	}
}

// FuzzParseManifest: whatever a file holds, it is refused, or it is exactly what
// was signed, or it does not claim the key.
func FuzzParseManifest(f *testing.F) {
	seed := make([]byte, ed25519.SeedSize)
	key, err := newSigner(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		f.Fatal(err)
	}
	_, content := signedManifest(f, key)
	f.Add(content)
	f.Add([]byte(`{"format": 1, "size": 544}`))
	f.Add([]byte(`{"format": 3, "signature": "", "signedBy": ""}`))
	f.Fuzz(func(t *testing.T, changed []byte) {
		m, err := ParseManifest("m", changed)
		if err == nil && m.SignedBy == key.PublicKey() && !bytes.Equal(changed, content) {
			t.Errorf("read as signed:\n%s", changed)
		}
	})
}
