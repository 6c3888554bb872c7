package vault

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// TestAdoptRefuses: what would split the cluster, or stop it, is refused before
// anything is written.
func TestAdoptRefuses(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			m, w := settled(t, pki.ProtectPlain), emptyWorld(t, version)
			held := m.held(t)
			refused := func(held pki.Held, words ...string) {
				t.Helper()
				changes, err := adoption(t.Context(), w.client, w.fleet, held)
				if err == nil {
					t.Fatalf("not refused; it would\n%s", printed(changes))
				}
				noSecret(t, err.Error())
				for _, word := range words {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("no %q in: %v", word, err)
					}
				}
			}
			old := *held.Authorities[0].Certificate
			old.NotAfter = time.Now().Add(time.Hour)
			short := pki.Held{Authorities: []pki.HeldAuthority{held.Authorities[0]}}
			short.Authorities[0].Certificate = &old
			refused(short, "etcd-server", "before a certificate of", "nodeagent apply")
			foreign := old
			foreign.Subject.Organization = []string{"venus"}
			short.Authorities[0].Certificate = &foreign
			refused(short, "of another cluster")

			// Bootstrapped without --adopt: two sets of CAs where there was one.
			w.bootstrap()
			refused(held, `CA "etcd-server"`, `CA "front-proxy"`, "has another one", "vault secrets disable")
			// A host that follows that Vault takes nothing from it, and says why.
			n := w.nodeOf(w.fleet.Hosts[0], m.root)
			if _, err := n.applier().Refresh(t.Context(), pki.Want(n.spec)); err == nil || !strings.Contains(err.Error(), "--adopt-local") {
				t.Errorf("a host of the local issuer and Vault with other CAs: %v", err)
			}
			if _, err := n.Enroll(t.Context(), n.token(10*time.Minute)); err == nil || !strings.Contains(err.Error(), "--adopt-local") {
				t.Errorf("it was let in: %v", err)
			}
			for _, ca := range held.Authorities {
				if err := w.client.Sys().Unmount(w.place.Engine(ca.Name)); err != nil {
					t.Fatal(err)
				}
			}
			// Secrets of another control plane.
			for _, k := range settled(t, pki.ProtectPlain).held(t).Keys {
				if err := adoptSecret(t.Context(), w.client, w.place, k); err != nil {
					t.Fatal(err)
				}
			}
			refused(held, `key "encryption"`, `key "service-account"`, "another one is at", "vault kv metadata delete")
			for _, k := range held.Keys {
				w.delete(w.place.Secret(k.Name))
			}
			refused(held, "was deleted", "vault kv undelete")
			for _, k := range held.Keys {
				w.delete(w.place.Secrets() + "/metadata/" + k.Name)
			}
			changes, err := adoption(t.Context(), w.client, w.fleet, held)
			if err != nil {
				t.Fatal(err)
			}
			if err := Apply(t.Context(), w.client, w.place, changes, plan.Silent{}); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Enroll(t.Context(), n.token(10*time.Minute)); err != nil {
				t.Fatal(err)
			}
			n.nothingToDo()
		})
	}
}

// TestHeldRefuses: what is not whole, or is being changed, is not given away.
func TestHeldRefuses(t *testing.T) {
	m := settled(t, pki.ProtectPlain)
	local := &pki.Local{Root: m.root}
	refused := func(word string) {
		t.Helper()
		if held, err := local.Held(t.Context()); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want %q", held, err, word)
		}
	}
	changes := pki.LocalChanges{Root: m.root}
	for ca, word := range map[string]string{layout.CAEtcdPeer: "rotate-ca etcd-peer", "key-encryption": "rotate-ca"} {
		if err := changes.Save(t.Context(), pki.Change{CA: ca}); err != nil {
			t.Fatal(err)
		}
		refused(word)
		if err := changes.Remove(t.Context(), ca); err != nil {
			t.Fatal(err)
		}
	}
	if err := local.Add(t.Context(), layout.CAEtcdPeer); err != nil {
		t.Fatal(err)
	}
	refused("has a second one beside it")
	if err := os.RemoveAll(m.root.LocalCABeside(layout.CAEtcdPeer)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(m.root.LocalCA(layout.CAK8sClient)); err != nil {
		t.Fatal(err)
	}
	refused(`trusts a CA "k8s-client"`)
	local.Root = layout.Root(t.TempDir())
	refused("there is none")
	local.Root = settled(t, pki.ProtectPassphrase).root
	refused("they are encrypted")
	local.Keys = &pki.Keyring{Root: local.Root, Secret: func(context.Context, pki.SecretAsk) (string, error) { return "not the right one", nil }}
	refused("encrypted with another passphrase")
}
