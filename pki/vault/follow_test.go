package vault

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// converge makes what the host's spec wants, as `nodeagent run` does, and
// demands that every certificate is trusted by what lies beside it.
func (n *node) converge() int {
	n.t.Helper()
	if _, err := n.applier().Refresh(n.t.Context(), pki.Want(n.spec)); err != nil {
		n.t.Fatal(err)
	}
	changes := n.diff()
	if err := n.applier().Apply(n.t.Context(), changes, plan.Silent{}); err != nil {
		n.t.Fatal(err)
	}
	if left := n.diff(); len(left) > 0 {
		n.t.Fatalf("there is still to do:\n%s", printed(left))
	}
	n.trusted()
	return len(changes)
}

func (n *node) diff() []plan.Change {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	return pki.Diff(have, pki.Want(n.spec), time.Now())
}

// trusted: each certificate in use is trusted by whoever has the bundles.
func (n *node) trusted() {
	n.t.Helper()
	for _, r := range pki.Want(n.spec).Certificates {
		chain, err := parseChain(string(fileOf(n.t, n.root.Certificate(r.Name).Cert)))
		if err != nil {
			n.t.Fatal(err)
		}
		roots, above := x509.NewCertPool(), x509.NewCertPool()
		roots.AppendCertsFromPEM(fileOf(n.t, n.root.Trust(r.CA)))
		for _, c := range chain[1:] {
			above.AddCert(c)
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			n.t.Fatalf("nobody trusts %s: %v", r.Name, err)
		}
	}
}

func fileOf(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// nothingToDo: neither a plan nor a look at the issuer changes anything.
func (n *node) nothingToDo() {
	n.t.Helper()
	if left := n.diff(); len(left) > 0 {
		n.t.Errorf("there is to do:\n%s", printed(left))
	}
	want := pki.Want(n.spec)
	bundles, err := n.applier().Refresh(n.t.Context(), want)
	keys, keysErr := n.applier().RefreshKeys(n.t.Context(), want)
	if err := errors.Join(err, keysErr); err != nil || len(bundles)+len(keys) > 0 {
		n.t.Errorf("Vault has others than the host: bundles %v, keys %v, %v", bundles, keys, err)
	}
	n.trusted()
}

// reissues: Vault's signature is worth what the local issuer's was.
func (n *node) reissues(names ...string) {
	n.t.Helper()
	for _, name := range names {
		changes := pki.Obtain(pki.Want(n.spec), name, "a test")
		if err := n.applier().Apply(n.t.Context(), changes, plan.Silent{}); err != nil {
			n.t.Fatal(err)
		}
	}
	n.nothingToDo()
}

func (n *node) alarms() string {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	var texts []string
	for _, a := range pki.Alarms(have, pki.Want(n.spec), time.Now()) {
		texts = append(texts, a.Text)
	}
	return strings.Join(texts, "; ")
}
