package vault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// candidate is an issuer under the suite: the hosts of a fleet, each with the
// issuer that it has.
type candidate struct {
	hosts []member
	// shared tells that the hosts' issuers are one and the same authority.
	shared bool
}

type member struct {
	spec   *hosts.Spec
	root   layout.Root
	issuer pki.Issuer
	keys   *pki.Keyring // of the local issuer whose keys are encrypted
}

// shipped are the files of one of the fleets that come with nodeagent, with
// their issuer changed to Vault and a key type.
func shipped(t *testing.T, name, keyType string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", "hosts", "fleets", name, "*.toml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fleet %s: %v", name, err)
	}
	files := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(content)
	}
	text := files["cluster.toml"]
	text = strings.Replace(text, "[pki]\n", "[pki]\nkey_type = \""+keyType+"\"\n", 1)
	text = strings.NewReplacer(
		`issuer = "local"`, `issuer = "vault"`,
		`address = "https://vault.example.org:8200"`, `address = "ADDRESS"`,
		`ca_file = "/etc/nodeagent/vault-ca.crt"`, `ca_file = "CAFILE"`,
	).Replace(text)
	if !strings.Contains(text, "[pki.vault]") {
		text += "\n[pki.vault]\naddress = \"ADDRESS\"\nca_file = \"CAFILE\"\n"
	}
	files["cluster.toml"] = text
	return files
}

// TestConformance holds every issuer against the same suite.
func TestConformance(t *testing.T) {
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		for _, keyType := range []string{"ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048"} {
			t.Run("mercury/"+keyType, func(t *testing.T) { conform(t, local(t, keyType)) })
		}
	})
	t.Run("local, its keys encrypted", func(t *testing.T) {
		t.Parallel()
		for _, how := range []string{pki.ProtectPassphrase, pki.ProtectCredential} {
			t.Run("mercury/"+how, func(t *testing.T) { conform(t, encrypted(t, how)) })
		}
	})
	for _, version := range servers.Versions() {
		for _, c := range []struct{ fleet, keyType string }{
			{"mercury", "ecdsa-p256"}, {"k8s-235", "ecdsa-p256"}, {"k8s-235", "ecdsa-p384"}, {"k8s-235", "ed25519"}, {"mercury", "rsa-2048"},
		} {
			t.Run(version+"/"+c.fleet+"/"+c.keyType, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, version, shipped(t, c.fleet, c.keyType))
				candidate := candidate{shared: true}
				for _, spec := range w.fleet.Hosts {
					n := w.enrolled(spec.Name)
					candidate.hosts = append(candidate.hosts, member{spec, n.root, n, nil})
				}
				conform(t, candidate)
			})
		}
	}
}

// local is the local issuer of the host mercury, with its authorities made.
func local(t *testing.T, keyType string) candidate {
	t.Helper()
	fleet, err := hosts.Load(filepath.Join("..", "..", "hosts", "fleets", "mercury"))
	if err != nil {
		t.Fatal(err)
	}
	spec := *fleet.Hosts[0]
	spec.PKI.KeyType = keyType
	m := member{&spec, layout.Root(t.TempDir()), nil, nil}
	m.issuer = &pki.Local{Root: m.root}
	return candidate{hosts: []member{m}}
}

// encrypted is the local issuer with the keys of its authorities encrypted.
func encrypted(t *testing.T, how string) candidate {
	t.Helper()
	c := local(t, "ecdsa-p256")
	m := &c.hosts[0]
	m.spec.PKI.Local = &hosts.LocalIssuer{CAKeys: how}
	m.keys = &pki.Keyring{Root: m.root, Secret: func(context.Context, pki.SecretAsk) (string, error) {
		return "kM1Yb3zq8Tq0Jm5vJ2m3Xw4r6s9uBvCxDyEzF0gHiJk=", nil
	}}
	m.issuer = &pki.Local{Root: m.root, Keys: m.keys}
	return c
}

// conform is the suite.
func conform(t *testing.T, c candidate) {
	for _, m := range c.hosts {
		m.converge(t)
		for _, r := range pki.Requests(m.spec) {
			m.issues(t, r)
		}
		m.refusesOtherRequests(t)
		m.verifiedByOpenSSL(t)
	}
	bundlesAgree(t, c)
	secretsAreShared(t, c)
}

// converge makes everything that the spec wants, and then has nothing to do.
func (m member) converge(t *testing.T) {
	t.Helper()
	applier := pki.Applier{Root: m.root, Keys: m.keys, Issuer: func(context.Context) (pki.Issuer, error) { return m.issuer, nil }}
	diff := func() []plan.Change {
		have, err := pki.Observe(t.Context(), m.root)
		if err != nil {
			t.Fatal(err)
		}
		return pki.Diff(have, pki.Want(m.spec), time.Now())
	}
	began := time.Now()
	changes := diff()
	if err := applier.Apply(t.Context(), changes, plan.Silent{}); err != nil {
		t.Fatalf("host %s: %v", m.spec.Name, err)
	}
	t.Logf("host %s: %d changes in %s", m.spec.Name, len(changes), time.Since(began).Round(time.Millisecond))
	if left := diff(); len(left) > 0 {
		t.Errorf("host %s: %d changes are left, the first: %s because %s", m.spec.Name, len(left), left[0], left[0].Reason)
	}
}

// issues asks for one certificate and reads what comes back with other eyes
// than package pki's.
func (m member) issues(t *testing.T, r pki.Request) {
	t.Helper()
	key, csr := newCSR(t, r)
	chain, err := m.issuer.Sign(t.Context(), r, csr)
	if err != nil {
		t.Errorf("host %s: %v", m.spec.Name, err)
		return
	}
	certificates := parsed(t, chain)
	leaf, above := certificates[0], certificates[1:]
	wrong := func(what string, have, want any) {
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("host %s, %s: %s is %v, want %v", m.spec.Name, r.Name, what, have, want)
		}
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		t.Errorf("%s: the certificate is for another key", r.Name)
	}
	want := pkix.Name{CommonName: r.CommonName}
	if r.Organization != "" {
		want.Organization = []string{r.Organization}
	}
	wrong("the subject", leaf.Subject, want)
	dns, addresses := slices.Sorted(slices.Values(leaf.DNSNames)), []string{}
	for _, ip := range leaf.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	var wantAddresses []string
	for _, a := range r.Addresses {
		wantAddresses = append(wantAddresses, a.String())
	}
	slices.Sort(addresses)
	slices.Sort(wantAddresses)
	wrong("the list of names", dns, r.DNSNames)
	wrong("the list of addresses", addresses, wantAddresses)
	wrong("the number of e-mail addresses and URIs", len(leaf.EmailAddresses)+len(leaf.URIs), 0)
	var usages []x509.ExtKeyUsage
	if r.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	wrong("the usage", leaf.ExtKeyUsage, usages)
	wrong("whether it is an authority", leaf.IsCA, false)
	if !leaf.BasicConstraintsValid || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		t.Errorf("%s: basic constraints %t, key usage %b", r.Name, leaf.BasicConstraintsValid, leaf.KeyUsage)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life < r.Lifetime || life > r.Lifetime+2*pki.Backdate {
		t.Errorf("%s: it lives for %s, want %s", r.Name, life, r.Lifetime)
	}
	if before := time.Since(leaf.NotBefore); before < pki.Backdate-time.Minute || before > pki.Backdate+time.Minute {
		t.Errorf("%s: it begins %s ago, want %s", r.Name, before, pki.Backdate)
	}
	for _, a := range above {
		if bytes.Equal(a.RawIssuer, a.RawSubject) {
			t.Errorf("%s: the chain has the root", r.Name)
		}
	}
	for _, usage := range usages {
		m.verify(t, r, leaf, above, usage)
	}
}

// verify checks the chain against the bundle of its CA, and that no other CA's
// bundle takes it.
func (m member) verify(t *testing.T, r pki.Request, leaf *x509.Certificate, above []*x509.Certificate, usage x509.ExtKeyUsage) {
	t.Helper()
	intermediates := x509.NewCertPool()
	for _, a := range above {
		intermediates.AddCert(a)
	}
	for _, b := range pki.Want(m.spec).Trust {
		bundle, err := m.issuer.Bundle(t.Context(), b.CA)
		if err != nil {
			t.Error(err)
			continue
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle)
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}})
		if trusted := err == nil; trusted != (b.CA == r.CA) {
			t.Errorf("%s of %s is trusted by %s: %t (%v)", r.Name, r.CA, b.CA, trusted, err)
		}
	}
}

// refusesOtherRequests tries signing requests that do not ask for exactly what
// the request says.
func (m member) refusesOtherRequests(t *testing.T) {
	t.Helper()
	r := pki.Requests(m.spec)[0]
	for name, change := range map[string]func(*pki.Request){
		"another common name": func(r *pki.Request) { r.CommonName += "x" },
		"a group":             func(r *pki.Request) { r.Organization = "system:masters" },
		"one name more":       func(r *pki.Request) { r.DNSNames = append(slices.Clone(r.DNSNames), "zzz.example.org") },
		"another key type": func(r *pki.Request) {
			r.KeyType = map[bool]string{true: "ecdsa-p384", false: "ecdsa-p256"}[r.KeyType == "ecdsa-p256"]
		},
	} {
		other := r
		change(&other)
		_, csr := newCSR(t, other)
		if _, err := m.issuer.Sign(t.Context(), r, csr); err == nil {
			t.Errorf("signed a request with %s", name)
		}
	}
	_, csr := newCSR(t, r)
	csr[len(csr)-1] ^= 1
	for name, der := range map[string][]byte{"a broken signature": csr, "nothing": nil, "something else": []byte("hello")} {
		if _, err := m.issuer.Sign(t.Context(), r, der); err == nil {
			t.Errorf("signed %s", name)
		}
	}
	unknown := r
	unknown.CA = "nobody"
	_, csr = newCSR(t, r)
	if _, err := m.issuer.Sign(t.Context(), unknown, csr); err == nil {
		t.Error("signed for an authority that is not there")
	}
	if _, err := m.issuer.Bundle(t.Context(), "nobody"); err == nil {
		t.Error("a bundle of an authority that is not there")
	}
}

// verifiedByOpenSSL has OpenSSL read the files and check them.
func (m member) verifiedByOpenSSL(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Logf("not tried with OpenSSL: %v", err)
		return
	}
	for _, c := range pki.Want(m.spec).Certificates {
		files := m.root.Certificate(c.Name)
		out, err := exec.CommandContext(t.Context(), program, "verify", "-partial_chain", "-CAfile", m.root.Trust(c.CA), "-untrusted", files.Cert, files.Cert).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", c.Name, err, out)
		}
		if out, err := exec.CommandContext(t.Context(), program, "pkey", "-in", files.Key, "-noout", "-check").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c.Name, err, out)
		}
	}
}

// bundlesAgree checks that all hosts get the same bundles, every time.
func bundlesAgree(t *testing.T, c candidate) {
	t.Helper()
	first := map[string][]byte{}
	for range 2 {
		for _, m := range c.hosts {
			for _, b := range pki.Want(m.spec).Trust {
				bundle, err := m.issuer.Bundle(t.Context(), b.CA)
				if err != nil {
					t.Error(err)
				}
				if have, ok := first[b.CA]; ok && !bytes.Equal(have, bundle) {
					t.Errorf("host %s has another bundle of %s", m.spec.Name, b.CA)
				}
				first[b.CA] = bundle
			}
		}
	}
}

// secretsAreShared has all hosts ask for secrets at once, twice.
func secretsAreShared(t *testing.T, c candidate) {
	t.Helper()
	if !c.shared {
		m := c.hosts[0]
		made, err := m.issuer.Secret(t.Context(), pki.KeyEncryption, func() ([]byte, error) { return []byte("fresh"), nil })
		if err != nil || string(made) != "fresh" {
			t.Errorf("%q, %v", made, err)
		}
		failed := errors.New("not made")
		if _, err := m.issuer.Secret(t.Context(), pki.KeyEncryption, func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
			t.Errorf("error %v, want %v", err, failed)
		}
		return
	}
	for _, key := range pki.Want(c.hosts[0].spec).Keys {
		var files [][]byte
		for _, m := range c.hosts {
			path := map[string]string{pki.KeyServiceAccount: m.root.ServiceAccountKey(), pki.KeyEncryption: m.root.EncryptionConfig()}[key.Name]
			content, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			files = append(files, content)
			again, err := m.issuer.Secret(t.Context(), key.Name, nothing)
			if err != nil || !bytes.Equal(again, content) {
				t.Errorf("host %s: secret %s is another one when it is asked for again (%v)", m.spec.Name, key.Name, err)
			}
		}
		for _, content := range files {
			if !bytes.Equal(content, files[0]) {
				t.Errorf("the hosts have several secrets %s", key.Name)
			}
		}
	}
}

// Of hosts that make a secret at the same time one wins, and all have its
// answer; one that was deleted is not made anew.
func TestSecretRace(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, version, shipped(t, "k8s-235", "ecdsa-p256"))
			var nodes []*node
			for _, spec := range w.fleet.Hosts {
				nodes = append(nodes, w.enrolled(spec.Name))
			}
			for _, name := range []string{pki.KeyEncryption, pki.KeyServiceAccount} {
				answers := make([][]byte, 3*len(nodes))
				errs := make([]error, len(answers))
				begin := make(chan struct{})
				var racing sync.WaitGroup
				for i := range answers {
					racing.Go(func() {
						<-begin
						answers[i], errs[i] = nodes[i%len(nodes)].Secret(t.Context(), name, func() ([]byte, error) {
							made := make([]byte, 16)
							_, err := rand.Read(made)
							return made, err
						})
					})
				}
				close(begin)
				racing.Wait()
				for i := range answers {
					if errs[i] != nil || len(answers[i]) != 16 || !bytes.Equal(answers[i], answers[0]) {
						t.Errorf("%s: %v, same %t", name, errs[i], bytes.Equal(answers[i], answers[0]))
					}
				}
			}
			w.delete(w.place.Secret(pki.KeyEncryption))
			_, err := nodes[0].Secret(t.Context(), pki.KeyEncryption, func() ([]byte, error) { return []byte("another"), nil })
			refused(t, err, pki.CauseMissing, "was deleted", "vault kv undelete")
			failed := errors.New("not made")
			w.delete(w.place.Secrets() + "/metadata/" + pki.KeyEncryption)
			if _, err := nodes[0].Secret(t.Context(), pki.KeyEncryption, func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
				t.Errorf("error %v, want %v", err, failed)
			}
		})
	}
}

func parsed(t *testing.T, content []byte) []*x509.Certificate {
	t.Helper()
	var list []*x509.Certificate
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		t.Fatal("no certificate")
	}
	return list
}
