package pki

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// FuzzParse feeds every parser of files: none may panic, and what a parser
// accepts must be of use.
func FuzzParse(f *testing.F) {
	h := newHost(f, mercury())
	h.converge()
	for _, path := range []string{
		h.root.Trust(layout.CAK8sClient), h.root.Certificate(layout.CertAPIServer).Cert,
		h.root.Certificate(layout.CertAPIServer).Key, h.root.ServiceAccountPublic(), h.root.EncryptionConfig(),
	} {
		content := readString(f, path)
		f.Add([]byte(content))
		f.Add([]byte(content[:len(content)/2]))
		f.Add([]byte(content + content))
	}
	f.Add([]byte("kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources: [{resources: [secrets], providers: [{}]}]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if list, err := parseCertificates(content); err == nil {
			describe(list[0])
			signedBy(list, []anchorKey{anchorOf(list[0])})
		}
		if list, err := parseBundle(content); err == nil && (len(list) == 0 || !list[0].IsCA) {
			t.Error("a bundle without an authority is accepted")
		}
		if _, err := parseSelfSigned(content); err == nil {
			if _, err := parseBundle(content); err != nil {
				t.Errorf("an authority that is no bundle: %v", err)
			}
		}
		if key, err := parseKey(content); err == nil && key.Public() == nil {
			t.Error("a key without a public half is accepted")
		}
		if list, err := parsePublics(content); err == nil && len(list) == 0 {
			t.Error("no public key is accepted")
		}
		if keys, err := parseEncryptionKeys(content); err == nil && len(keys[0]) != secretboxKeyBytes {
			t.Errorf("a key of %d bytes is accepted", len(keys[0]))
		}
	})
}

// Whatever lies in the place of a file, observing goes on and says so.
func TestObserveOddFiles(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	at := func(name string) string { return h.root.Certificate(name).Cert }
	for name, put := range map[string]func(path string) error{
		layout.CertAdmin:     func(p string) error { return os.Mkdir(p, 0o700) },
		layout.CertAPIServer: func(p string) error { return os.Symlink("/etc/passwd", p) },
		layout.CertEtcdPeer:  func(p string) error { return os.WriteFile(p, nil, 0o644) },
		layout.CertKubeProxy: func(p string) error { return os.Truncate(at(layout.CertEtcdServer), 2<<20) },
		layout.CertSchedulerClient: func(p string) error {
			return os.WriteFile(p, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o644)
		},
	} {
		if err := os.Remove(at(name)); err != nil {
			t.Fatal(err)
		}
		if err := put(at(name)); err != nil {
			t.Fatal(err)
		}
	}
	link := h.root.Certificate(layout.CertKubeletClient).Dir
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(link, "folder in its place"), 0o700); err != nil {
		t.Fatal(err)
	}
	have := h.observe()
	for name, want := range map[string]Condition{
		layout.CertAdmin: Damaged, layout.CertAPIServer: Damaged, layout.CertEtcdPeer: Damaged, layout.CertKubeProxy: Damaged,
		layout.CertEtcdServer: Damaged, layout.CertSchedulerClient: Damaged, layout.CertKubeletClient: Damaged,
		layout.CertKubeletServer: Sound,
	} {
		if c := have.certificate(name); c == nil || c.Found.Condition != want {
			t.Errorf("%s: %+v, want condition %d", name, c, want)
		}
	}
	h.converge()
}

func BenchmarkObserveAndDiff(b *testing.B) {
	h := newHost(b, mercury())
	h.converge()
	want := Want(h.spec)
	b.ReportAllocs()
	for b.Loop() {
		have, err := Observe(context.Background(), h.root)
		if err != nil {
			b.Fatal(err)
		}
		if len(Diff(have, want, h.now)) > 0 {
			b.Fatal("there is a difference")
		}
	}
}
