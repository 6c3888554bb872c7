package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

const aYear = 365 * 24 * time.Hour

// offlineWorld is a real Vault whose CAs an offline root has signed.
func offlineWorld(t *testing.T, version string) (w *world, root string, sign func([]byte, bool, time.Duration) string) {
	server := servers.Start(t, version)
	w = &world{t: t, server: server, client: server.Client()}
	w.setFleet(trio(""))
	want := wantOf(t, w.fleet)
	want.Offline()
	converge(t, w.client, want)
	root, sign = offlineRoot(t)
	for i, a := range want.Authorities {
		request, err := SigningRequest(t.Context(), w.client, a)
		if err != nil {
			t.Fatal(err)
		}
		want.Authorities[i].Signed = sign(request, true, aYear) + root
	}
	converge(t, w.client, want)
	return w, root, sign
}

// TestOfflineRootLetsNobodyIn logs in as an attacker with a certificate of
// another CA below the offline root that has signed the cluster's CAs, as a
// company's root signs those of many: with a host's own name and usage in it, and
// with the whole chain sent. Vault trusts for logins the cluster's CA alone. A
// Vault where logins trust the root is put right by bootstrap.
func TestOfflineRootLetsNobodyIn(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w, root, sign := offlineWorld(t, version)
			host := w.enrolled("n1")
			attacker := w.node("n1")
			w.neighbour(attacker, root, sign)
			if _, err := attacker.CheckEnrolment(t.Context()); err == nil {
				t.Error("a certificate of another CA below the offline root lets its holder in as host n1")
			} else {
				noSecret(t, err.Error())
			}

			// The attack works wherever the login trusts the root itself.
			path := "auth/" + w.place.Auth(authCert) + "/certs/n1"
			login, err := w.client.Logical().ReadWithContext(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			login.Data["certificate"] = login.Data["certificate"].(string) + root
			w.do(path, login.Data)
			if _, err := attacker.CheckEnrolment(t.Context()); err != nil {
				t.Fatalf("the attack is none: where logins trust the root it fails, too: %v", err)
			}
			if err := attacker.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			changes := differs(t, w.client, wantOf(t, w.fleet))
			if len(changes) != 1 || !strings.HasSuffix(changes[0].Key, "cert/n1") {
				t.Fatalf("bootstrap would change %v, want the login of n1 alone", keys(changes))
			}
			if err := Apply(t.Context(), w.client, w.place, changes, plan.Silent{}); err != nil {
				t.Fatal(err)
			}
			if _, err := attacker.CheckEnrolment(t.Context()); err == nil {
				t.Error("after bootstrap has put the login right the attacker is still let in")
			}
			if err := host.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := host.CheckEnrolment(t.Context()); err != nil {
				t.Errorf("the host itself is shut out: %v", err)
			}
		})
	}
}

// neighbour gives the attacker a certificate as the host's own, of a CA that the
// offline root has signed for somebody else.
func (w *world) neighbour(attacker *node, root string, sign func([]byte, bool, time.Duration) string) {
	w.t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			w.t.Fatal(err)
		}
		return key
	}
	caKey, key := newKey(), newKey()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "neighbour"}}, caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	between := sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), true, aYear)
	parents, err := parseChain(between)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: attacker.name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, parents[0], key.Public(), caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	to := attacker.root.Certificate(layout.CertNodeagent)
	writeFile(w.t, to.Cert, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), between+root...))
	writeFile(w.t, to.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
