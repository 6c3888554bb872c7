package vault

import (
	"context"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// TestChangeOfflineCA changes a CA that an offline root has signed: the request
// first, and when the certificate is there, the rest. It is killed after every
// write; certificates that are wrong change nothing.
func TestChangeOfflineCA(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			const ca = layout.CAEtcdPeer
			w, root, sign := offlineWorld(t, version)
			admin := w.administrator()
			n := w.enrolled("n2") // by certificate, so that logins work below an offline root
			n.converge()
			old := n.uses().Trust[ca]
			if len(old) != 1 {
				t.Fatalf("hosts trust %v", old)
			}
			changer := w.changer(admin)

			// What is given up leaves nothing.
			if _, err := changer.Prepare(t.Context(), ca, false); err != nil {
				t.Fatal(err)
			}
			if done, err := changer.Withdraw(t.Context(), ca); !done || err != nil {
				t.Fatalf("withdrawn: %v, %v", done, err)
			}
			if done, err := changer.Withdraw(t.Context(), ca); done || err != nil {
				t.Fatalf("withdrawn twice: %v, %v", done, err)
			}
			if keys, err := listKeys(t.Context(), admin, w.place.Engine(ca)+"/keys"); err != nil || len(keys) != 1 {
				t.Errorf("keys %v are left, %v", keys, err)
			}

			for range 2 { // the change is remembered, the key is made
				if _, err := w.changer(killed(t, admin, 1)).Prepare(t.Context(), ca, false); err == nil {
					t.Fatal("not killed")
				}
			}
			first, err := changer.Prepare(t.Context(), ca, false)
			if err != nil {
				t.Fatal(err)
			}
			again, err := changer.Prepare(t.Context(), ca, false)
			if err != nil || !samePublicKey(t, first.Request, again.Request) || !strings.Contains(first.Signer, "offline root") {
				t.Errorf("asked again: another key (%v); signed by %s", err, first.Signer)
			}
			if keys, err := listKeys(t.Context(), admin, w.place.Engine(ca)+"/keys"); err != nil || len(keys) != 2 {
				t.Errorf("keys %v, %v; want the one in use and the one that waits", keys, err)
			}
			if left := differs(t, admin, wantOf(t, w.fleet)); len(left) > 0 {
				t.Errorf("bootstrap would change what waits:\n%s", printed(left))
			}

			good := sign(first.Request, true, aYear) + root
			otherRoot, _ := offlineRoot(t)
			for why, bad := range map[string]string{
				"is no authority's":                   sign(first.Request, false, aYear) + root,
				"does not hold a leaf":                sign(first.Request, true, time.Hour) + root,
				"is not signed by":                    sign(first.Request, true, aYear) + otherRoot,
				"has the subject":                     w.bundleOf(t, n, ca) + root,
				"belongs to another key":              sign(otherRequest(t, n), true, aYear) + root,
				"is not PEM":                          "hello",
				"has a block \"CERTIFICATE REQUEST\"": string(first.Request),
			} {
				if err := changer.Import(t.Context(), ca, bad, time.Now()); err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("want %q, got %v", why, err)
				}
			}
			config := w.place.Engine(ca) + "/config/issuers"
			signs, err := read(t.Context(), admin, config)
			if err != nil {
				t.Fatal(err)
			}
			vaultWrite(t, w.client, config, map[string]any{"default": signs["default"], "default_follows_latest_issuer": true})
			if err := changer.Import(t.Context(), ca, good, time.Now()); err == nil || !strings.Contains(err.Error(), "default_follows_latest_issuer=false") {
				t.Errorf("an engine in which it would sign at once: %v", err)
			}
			vaultWrite(t, w.client, config, map[string]any{"default": signs["default"], "default_follows_latest_issuer": false})
			if got := n.uses().Trust[ca]; !slices.Equal(got, old) {
				t.Fatalf("hosts trust %v, trusted %v", got, old)
			}

			_ = w.changer(killed(t, admin, 2)).Import(t.Context(), ca, good, time.Now()) // the request, the import
			if err := changer.Import(t.Context(), ca, good, time.Now()); err != nil {
				t.Fatal(err)
			}
			if u, err := changer.Prepare(t.Context(), ca, true); u != nil || err != nil {
				t.Errorf("something waits to be signed still: %v, %v", u, err)
			}
			w.changeKilled(t, admin, n, ca)
			if got := n.uses(); len(got.Trust[ca]) != 1 || slices.Equal(got.Trust[ca], old) || !slices.Equal(got.Use(ca).SignedBy, got.Trust[ca]) {
				t.Errorf("in the end hosts trust %v, and certificates are signed by %v", got.Trust[ca], got.Use(ca).SignedBy)
			}
			if left := differs(t, admin, wantOf(t, w.fleet)); len(left) > 0 {
				t.Errorf("bootstrap would change what is left:\n%s", printed(left))
			}
		})
	}
}

func (w *world) changer(client *api.Client) *Changer {
	w.t.Helper()
	c, err := NewChanger(client, w.fleet)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) bundleOf(t *testing.T, n *node, ca string) string {
	t.Helper()
	content, err := n.Bundle(t.Context(), ca)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// otherRequest is a request for a key that Vault does not have.
func otherRequest(t *testing.T, n *node) []byte {
	t.Helper()
	_, csr := newCSR(t, n.request(layout.CertEtcdPeer))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
}

// TestChangeLoginCA changes the CA with whose certificates hosts log in: at no
// time is a host without a way in, and in the end what the old one signed is none.
func TestChangeLoginCA(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		const ca = layout.CANodeagent
		admin := w.administrator()
		nodes := []*node{w.enrolled("n1"), w.enrolled("n2"), w.enrolled("n3")}
		follow := func(context.Context) error {
			for _, n := range nodes {
				n.converge()
				if err := n.Close(t.Context()); err != nil { // so that it has to log in
					t.Fatal(err)
				}
				if _, err := n.CheckEnrolment(t.Context()); err != nil {
					t.Fatalf("host %s is shut out: %v", n.name, err)
				}
			}
			return nil
		}
		_ = follow(t.Context())
		stolen := nodes[0].copied()
		for runs := 1; ; runs++ {
			if runs > 40 {
				t.Fatal("it does not end")
			}
			lead := nodes[0].leads(w.changer(killed(t, admin, 2)))
			lead.Follow = follow
			lead.Uses = func(_ context.Context, ca string) ([]pki.Use, error) {
				reports := map[string]pki.Report{}
				for _, n := range nodes {
					reports[n.name] = n.uses()
				}
				return pki.Uses(w.fleet.Hosts, reports, ca, time.Now()), nil
			}
			if err := lead.Run(t.Context(), ca, false); err == nil || !strings.Contains(err.Error(), errKilled.Error()) {
				t.Fatalf("run %d was not killed: %v", runs, err)
			}
			if change, err := w.changer(admin).Load(t.Context(), ca); err != nil {
				t.Fatal(err)
			} else if change == nil {
				break
			}
		}
		_ = follow(t.Context())
		if _, err := stolen.CheckEnrolment(t.Context()); err == nil {
			t.Error("a certificate of the old CA lets in still")
		}
		if left := differs(t, admin, wantOf(t, w.fleet)); len(left) > 0 {
			t.Errorf("bootstrap would change what is left:\n%s", printed(left))
		}
	})
}

// copied is who has stolen the host's files.
func (n *node) copied() *node {
	n.t.Helper()
	thief := n.w.nodeOf(n.spec, layout.Root(n.t.TempDir()))
	from, to := n.root.Certificate(layout.CertNodeagent), thief.root.Certificate(layout.CertNodeagent)
	files := map[string][]byte{to.Cert: fileOf(n.t, from.Cert), to.Key: fileOf(n.t, from.Key)}
	for path, content := range files {
		writeFile(n.t, path, content)
	}
	return thief
}
