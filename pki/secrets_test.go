package pki

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func TestFilesAreAsPrivateAsTheyMustBe(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	h.now = h.now.Add(65 * day)
	h.converge()
	err := filepath.Walk(string(h.root.State()), func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		want := os.FileMode(0o644)
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			return nil
		case info.IsDir():
			want = 0o700
		case strings.HasSuffix(path, ".key") || strings.HasSuffix(path, ".yaml"):
			want = 0o600
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %#o, want %#o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// previous holds the pair before the one in use, as files of their own.
func TestPreviousIsACopy(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	at := h.root.Certificate(layout.CertAPIServer)
	for range 3 {
		cert, key := readString(t, at.Cert), readString(t, at.Key)
		h.now = h.now.Add(65 * day)
		h.converge()
		previous := filepath.Join(filepath.Dir(at.Dir), previousFolder)
		if readString(t, filepath.Join(previous, "tls.crt")) != cert || readString(t, filepath.Join(previous, "tls.key")) != key {
			t.Fatal("previous is not the pair that was in use")
		}
		if readString(t, at.Cert) == cert || readString(t, at.Key) == key {
			t.Fatal("the pair in use is still the old one")
		}
		entries, err := os.ReadDir(filepath.Dir(at.Dir))
		if err != nil || len(entries) != 3 {
			t.Fatalf("folder has %v (%v), want current, one generation and previous", entries, err)
		}
	}
}

func TestLostEncryptionKeyIsNotReplacedWhileEtcdHasData(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	content := readString(t, h.root.EncryptionConfig())
	if _, err := parseEncryptionKeys([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.root.EtcdData(), "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func() error{
		"removed": func() error {
			return os.RemoveAll(filepath.Dir(filepath.Dir(h.root.EncryptionConfig())))
		},
		"cut off": func() error {
			_ = os.MkdirAll(filepath.Dir(h.root.EncryptionConfig()), 0o700)
			return os.WriteFile(h.root.EncryptionConfig(), []byte(content[:200]), 0o600)
		},
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		err := h.apply(h.diff())
		if err == nil || !strings.Contains(err.Error(), "etcd holds data") {
			t.Errorf("%s: error %v, want a refusal", name, err)
		}
		if have := h.observe(); have.key(KeyEncryption) != nil && have.key(KeyEncryption).Condition == Sound {
			t.Errorf("%s: a key was made", name)
		}
	}
	// Data that is lost, too, comes back with a snapshot and wants its key.
	if err := os.RemoveAll(h.root.EtcdData()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.root.EtcdMarker(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.apply(h.diff()); err == nil || !strings.Contains(err.Error(), "etcd holds data") {
		t.Errorf("data and key lost: error %v, want a refusal", err)
	}
	// The caller may know better than this host's data folder.
	none := func() (bool, error) { return false, nil }
	a := &Applier{Root: h.root, Issuer: func(context.Context) (Issuer, error) { return &Local{Root: h.root}, nil }, DataExists: none}
	if err := a.Apply(context.Background(), h.diff(), plan.Silent{}); err != nil {
		t.Error(err)
	}
	if changes := h.diff(); len(changes) > 0 {
		t.Errorf("left:\n%s", printed(changes))
	}
}

// A snapshot names the encryption key by the first fingerprint; a key that was
// rotated out is still one of them.
func TestEncryptionKeys(t *testing.T) {
	h := newHost(t, mercury())
	if keys, err := EncryptionKeys(h.root); err != nil || len(keys) != 0 {
		t.Errorf("before there is one: %v, %v", keys, err)
	}
	h.converge()
	made, err := EncryptionKeys(h.root)
	if err != nil || len(made) != 1 {
		t.Fatalf("keys %v, %v", made, err)
	}
	content := readString(t, h.root.EncryptionConfig())
	added := strings.Replace(content, "          keys:\n", "          keys:\n            - name: key2\n              secret: "+base64.StdEncoding.EncodeToString(make([]byte, secretboxKeyBytes))+"\n", 1)
	if err := os.WriteFile(h.root.EncryptionConfig(), []byte(added), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := EncryptionKeys(h.root)
	if err != nil || len(keys) != 2 || keys[0] == made[0] || keys[1] != made[0] {
		t.Errorf("with a new key in front: %v, %v, want it and then %v", keys, err, made)
	}
	if err := os.WriteFile(h.root.EncryptionConfig(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := EncryptionKeys(h.root); err == nil {
		t.Errorf("of a damaged file: %v", keys)
	}
}

func TestKeysAreMadeOnce(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	encryption, private := readString(t, h.root.EncryptionConfig()), readString(t, h.root.ServiceAccountKey())
	// A person adds keys: to the bundle of public ones, and to the encryption.
	other, err := newKey("ecdsa-p256")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: der})
	write(t, h.root.ServiceAccountPublic(), readString(t, h.root.ServiceAccountPublic())+string(public), 0o644)
	if changes := h.diff(); len(changes) > 0 {
		t.Errorf("a second public key is taken for a difference:\n%s", printed(changes))
	}
	if err := os.Remove(h.root.ServiceAccountPublic()); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(900 * day)
	h.converge()
	if readString(t, h.root.EncryptionConfig()) != encryption || readString(t, h.root.ServiceAccountKey()) != private {
		t.Error("a sound key was replaced")
	}
}

func TestAuthorityIsAPersonsToMend(t *testing.T) {
	for name, tc := range map[string]struct {
		hurt func(dir string) error
		says string
	}{
		"key removed": {func(dir string) error { return os.Remove(filepath.Join(dir, authorityKey)) }, "ca.key is missing"},
		"key cut off": {func(dir string) error { return os.Truncate(filepath.Join(dir, authorityKey), 50) }, "ca.key has a PEM block that is cut off"},
		"another key": {func(dir string) error {
			other := filepath.Join(filepath.Dir(dir), layout.CAEtcdPeer, authorityKey)
			content, err := os.ReadFile(other)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, authorityKey), content, 0o600))
		}, "do not belong together"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, mercury())
			h.converge()
			dir := h.root.LocalCA(layout.CAK8sServer)
			cert := readString(t, filepath.Join(dir, authorityCert))
			if err := tc.hurt(dir); err != nil {
				t.Fatal(err)
			}
			changes := h.diff()
			if len(changes) != 1 {
				t.Errorf("want one change, got:\n%s", printed(changes))
			}
			err := h.apply(changes)
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "from a backup") {
				t.Errorf("error %v, want one with %q", err, tc.says)
			}
			if readString(t, filepath.Join(dir, authorityCert)) != cert {
				t.Error("the authority's certificate was replaced")
			}
			// What needs no authority goes on.
			if err := os.Remove(h.root.Certificate(layout.CertKubeProxy).Cert); err != nil {
				t.Fatal(err)
			}
			if err := h.apply(h.diff()); err == nil {
				t.Error("no error, though the authority is still broken")
			}
			if have := h.observe(); have.certificate(layout.CertKubeProxy).Found.Condition != Sound {
				t.Error("another authority's certificate was not issued")
			}
		})
	}
}

func TestAuthority(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	first, err := loadAuthority(h.root, layout.CAK8sServer)
	if err != nil {
		t.Fatal(err)
	}
	c := first.certificate
	if !c.MaxPathLenZero || c.MaxPathLen != 0 || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.Subject.CommonName != layout.CAK8sServer {
		t.Errorf("authority %+v", c)
	}
	if bits := c.SerialNumber.BitLen(); bits < 90 || bits > 128 {
		t.Errorf("serial number has %d bits", bits)
	}
	// A renewed certificate has the same key and name, so that old leaves pass.
	leaf, err := readAs(h.root.Certificate(layout.CertAPIServer).Cert, parseCertificates)
	if err != nil {
		t.Fatal(err)
	}
	if err := makeAuthority(t.Context(), disk{}, h.root, nil, Want(h.spec).Authorities[2], h.now.Add(3640*day)); err != nil {
		t.Fatal(err)
	}
	second, err := loadAuthority(h.root, layout.CAK8sServer)
	if err != nil {
		t.Fatal(err)
	}
	if second.KeyID != first.KeyID || !second.NotAfter.After(first.NotAfter) || string(second.certificate.SubjectKeyId) != string(c.SubjectKeyId) {
		t.Errorf("renewed from %+v to %+v", first.Authority, second.Authority)
	}
	if err := leaf[0].CheckSignatureFrom(second.certificate); err != nil {
		t.Error(err)
	}
}

func TestLeafNeverOutlivesItsAuthority(t *testing.T) {
	s := mercury()
	s.PKI.CALifetime = 40 * day
	h := newHost(t, s)
	h.converge()
	have := h.observe()
	for _, c := range have.Certificates {
		if c.Found.NotAfter.After(have.Authorities[0].NotAfter) {
			t.Errorf("%s ends on %s, its authority on %s", c.Name, c.Found.NotAfter, have.Authorities[0].NotAfter)
		}
		if c.Name != layout.CertAdmin && !c.Found.NotAfter.Equal(start.Add(40*day)) {
			t.Errorf("%s ends on %s, want with its authority", c.Name, c.Found.NotAfter)
		}
	}
}

func TestLocalRefusesOtherRequests(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	want := Want(h.spec)
	r := want.certificate(layout.CertKubeletServer).Request
	l := &Local{Root: h.root, Now: func() time.Time { return h.now }}
	key, err := newKey("ecdsa-p256")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(edit func(*Request)) error {
		asked := r
		edit(&asked)
		csr, err := newCSR(asked, key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Sign(context.Background(), r, csr)
		return err
	}
	if err := ask(func(*Request) {}); err != nil {
		t.Errorf("a proper request is refused: %v", err)
	}
	for name, edit := range map[string]func(*Request){
		"name":  func(r *Request) { r.CommonName = "system:node:other" },
		"group": func(r *Request) { r.Organization = "system:masters" },
		"more":  func(r *Request) { r.DNSNames = append([]string{"other"}, r.DNSNames...) },
		"less":  func(r *Request) { r.Addresses = nil },
	} {
		if err := ask(edit); err == nil || !strings.Contains(err.Error(), "asks for something else") {
			t.Errorf("%s: error %v, want a refusal", name, err)
		}
	}
	csr, err := newCSR(r, key)
	if err != nil {
		t.Fatal(err)
	}
	csr[len(csr)-1] ^= 1
	if _, err := l.Sign(context.Background(), r, csr); err == nil {
		t.Error("a request with a wrong signature is signed")
	}
	h.now = h.now.Add(4000 * day)
	if err := ask(func(*Request) {}); err == nil || !strings.Contains(err.Error(), "ended on") {
		t.Errorf("error %v, want that the authority has ended", err)
	}
}
