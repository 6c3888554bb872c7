package vault

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// revoked are the serial numbers, in hexadecimal, on the list of a CA.
func (w *world) revoked(ca string) []string {
	w.t.Helper()
	answer, err := w.client.Logical().ReadWithContext(w.t.Context(), w.place.Engine(ca)+"/cert/crl")
	if err != nil {
		w.t.Fatal(err)
	}
	content, err := text(answer, "certificate")
	if err != nil {
		w.t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(content))
	if block == nil {
		w.t.Fatalf("the list of %s is not PEM", ca)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	var serials []string
	for _, e := range list.RevokedCertificateEntries {
		serials = append(serials, e.SerialNumber.Text(16))
	}
	return serials
}

// renewal is that of a host, which is proven or not by prove.
func (n *node) renewal(prove func() error) *pki.Renewal {
	return &pki.Renewal{
		Applier: &pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) { return n.Issuer, nil }},
		Want:    pki.Want(n.spec),
		Prove:   func(context.Context) error { return prove() },
		Revoke:  n.Revoke,
	}
}

func (n *node) observe() pki.State {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	return have
}

// TestRenewAndRevoke: a host renews a certificate that is not due and has the
// old one revoked with its own token; the CRL lists the old serial and never the
// new one, though Vault keeps no certificates.
func TestRenewAndRevoke(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		applier := &pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) { return n.Issuer, nil }}
		if err := applier.Apply(t.Context(), pki.Diff(n.observe(), pki.Want(n.spec), time.Now()), plan.Silent{}); err != nil {
			t.Fatal(err)
		}
		const name, ca = layout.CertKubeletClient, layout.CAK8sClient
		serial := func() string { have := n.observe(); return have.Pair(name).Serial }
		old := serial()

		// Not proven: it is renewed, and nothing is revoked.
		notYet := errors.New("kube-apiserver does not answer")
		if _, err := n.renewal(func() error { return notYet }).Run(t.Context(), []string{name}, true, plan.Silent{}); !errors.Is(err, notYet) {
			t.Fatalf("%v, want %v", err, notYet)
		}
		fresh := serial()
		if fresh == old || len(w.revoked(ca)) > 0 {
			t.Fatalf("serial %s after %s, revoked %q", fresh, old, w.revoked(ca))
		}

		// Sealed: it stays owed.
		w.server.Seal()
		n.patience = patience{tries: 1}
		if _, err := n.renewal(func() error { return nil }).Run(t.Context(), []string{name}, true, plan.Silent{}); pki.CauseOf(err) != pki.CauseUnreachable {
			t.Errorf("sealed: %v", err)
		}
		w.server.Unseal()
		n.patience = usual
		n.mu.Lock()
		n.outage = outage{} // which answers for Vault for a moment
		n.mu.Unlock()

		list, err := n.renewal(func() error { return nil }).Run(t.Context(), []string{name}, true, plan.Silent{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || !slices.Equal(list[0].Revoked, []string{old}) || serial() != fresh {
			t.Errorf("%+v, serial %s, want %s to be revoked and %s in use", list, serial(), old, fresh)
		}
		if got := w.revoked(ca); !slices.Equal(got, []string{old}) {
			t.Errorf("the list has %q, want %q", got, old)
		}

		// Revoking again does nothing; a key that does not belong is refused.
		at := n.root.Certificate(name)
		chain, err := os.ReadFile(at.Cert)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(n.root.Certificate(layout.CertKubeProxy).Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Revoke(t.Context(), ca, chain, other); err == nil {
			t.Error("revoked with the key of another certificate")
		} else {
			noSecret(t, err.Error())
		}
		key, err := os.ReadFile(at.Key)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := n.Revoke(t.Context(), ca, chain, key); err != nil {
				t.Error(err)
			}
		}
		if got := w.revoked(ca); len(got) != 2 || !slices.Contains(got, fresh) {
			t.Errorf("the list has %q, want %q and %q", got, old, fresh)
		}
	})
}
