package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// ca is an authority outside of Vault.
type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t *testing.T, name string, public any, by *ca) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public == nil {
		public = key.Public()
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(8, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca{key, cert}
}

func (c ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

// What of an engine's issuers is trusted.
func TestAnchors(t *testing.T) {
	root, other := newCA(t, "root", nil, nil), newCA(t, "other", nil, nil)
	below := newCA(t, "below", nil, &root)
	crossed := newCA(t, "other", other.key.Public(), &root) // other's key, signed by root, too
	tests := []struct {
		name      string
		all, want []ca
	}{
		{"a root", []ca{root}, []ca{root}},
		{"two roots", []ca{root, other}, []ca{root, other}},
		{"an intermediate", []ca{below}, []ca{below}},
		{"an intermediate and its root", []ca{below, root}, []ca{below}},
		{"another root beside them", []ca{other, below, root}, []ca{other, below}},
		{"a root and its successor, which it signed", []ca{root, other, crossed}, []ca{root, other, crossed}},
	}
	for _, test := range tests {
		var all []*x509.Certificate
		for _, c := range test.all {
			all = append(all, c.cert)
		}
		content, err := encodeBundle(all)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if !slices.EqualFunc(parsed(t, content), test.want, func(have *x509.Certificate, want ca) bool { return have.Equal(want.cert) }) {
			t.Errorf("%s: other anchors", test.name)
		}
	}
}

// An authority that is signed by a root elsewhere: leaves come with the
// intermediate, the root above it is not trusted, and the authority before it
// stays trusted until it is removed.
func TestIntermediate(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n2")
		r := n.request(layout.CertEtcdPeer)
		engine := w.place.Engine(r.CA)
		before, err := n.Bundle(t.Context(), r.CA)
		if err != nil {
			t.Fatal(err)
		}
		root := newCA(t, "offline root", nil, nil)
		secret, err := w.client.Logical().WriteWithContext(t.Context(), engine+"/intermediate/generate/internal", map[string]any{"common_name": "etcd-peer", "key_type": "ec", "key_bits": 256})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(secret.Data["csr"].(string)))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		below := newCA(t, "etcd-peer below", csr.PublicKey, &root)
		secret, err = w.client.Logical().WriteWithContext(t.Context(), engine+"/intermediate/set-signed", map[string]any{"certificate": below.pem() + root.pem()})
		if err != nil {
			t.Fatal(err)
		}
		check := func(want ...*x509.Certificate) []byte {
			t.Helper()
			bundle, err := n.Bundle(t.Context(), r.CA)
			if err != nil {
				t.Fatal(err)
			}
			if have := parsed(t, bundle); !slices.EqualFunc(have, want, (*x509.Certificate).Equal) {
				t.Errorf("%d anchors, want %d", len(have), len(want))
			}
			return bundle
		}
		old := parsed(t, before)[0]
		check(old, below.cert) // the old one signs still
		for _, id := range secret.Data["imported_issuers"].([]any) {
			issuer, err := w.client.Logical().ReadWithContext(t.Context(), engine+"/issuer/"+id.(string))
			if err != nil {
				t.Fatal(err)
			}
			if issuer.Data["key_id"] != "" {
				w.do(engine+"/config/issuers", map[string]any{"default": id})
			}
		}
		check(below.cert, old)

		_, der := newCSR(t, r)
		chain, err := n.Sign(t.Context(), r, der)
		if err != nil {
			t.Fatal(err)
		}
		if list := parsed(t, chain); len(list) != 2 || !list[1].Equal(below.cert) {
			t.Errorf("a chain of %d certificates, want leaf and intermediate", len(list))
		}
		// The store takes it.
		applier := pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) { return n, nil }}
		if err := applier.Apply(t.Context(), pki.Obtain(pki.Want(n.spec), r.Name, "a test"), plan.Silent{}); err != nil {
			t.Error(err)
		}
		have, err := pki.Observe(t.Context(), n.root)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range pki.Diff(have, pki.Want(n.spec), time.Now()) {
			if c.Key == "certificate etcd-peer" || c.Key == "trust etcd-peer" {
				t.Errorf("%s because %s", c, c.Reason)
			}
		}
	})
}
