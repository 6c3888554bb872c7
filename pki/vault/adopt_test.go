package vault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// settled is a cluster of one host whose local issuer has issued everything; how
// tells how its CAs' keys lie there.
func settled(t *testing.T, how string) member {
	t.Helper()
	if how != pki.ProtectPlain {
		m := encrypted(t, how).hosts[0]
		m.converge(t)
		return m
	}
	fleet, err := hosts.Load(filepath.Join("..", "..", "hosts", "fleets", "mercury"))
	if err != nil {
		t.Fatal(err)
	}
	m := member{fleet.Hosts[0], layout.Root(t.TempDir()), nil, nil}
	m.issuer = &pki.Local{Root: m.root}
	m.converge(t)
	return m
}

// emptyWorld is a real Vault with nothing in it, and the fleet of one host with
// Vault as its issuer.
func emptyWorld(t *testing.T, version string) *world {
	server := servers.Start(t, version)
	w := &world{t: t, server: server, client: server.Client()}
	w.setFleet(shipped(t, "mercury", "ecdsa-p256"))
	return w
}

// held is what the host's local issuer holds.
func (m member) held(t *testing.T) pki.Held {
	t.Helper()
	held, err := (&pki.Local{Root: m.root, Keys: m.keys}).Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// adoption is the plan that has Vault go on as a local issuer.
func adoption(ctx context.Context, client *api.Client, fleet *hosts.Fleet, held pki.Held) ([]plan.Change, error) {
	want, err := Want(fleet)
	if err != nil {
		return nil, err
	}
	have, err := Observe(ctx, client, want.Place)
	if err == nil {
		err = Adopt(ctx, client, have, &want, held, time.Now())
	}
	if err != nil {
		return nil, err
	}
	return Diff(have, want), nil
}

// TestMoveFromLocal takes a cluster of one host from the local issuer to Vault,
// as docs/vault.md says: the same CAs and the same keys, nothing issued anew and
// nobody who does not trust another; then CAs whose keys no host has had; then
// nothing of the local issuer is left. Whoever does it is killed after every
// write.
func TestMoveFromLocal(t *testing.T) {
	for n, version := range servers.Versions() {
		how := []string{pki.ProtectPlain, pki.ProtectPassphrase}[n%2]
		t.Run(version+", keys "+how, func(t *testing.T) {
			t.Parallel()
			m, w := settled(t, how), emptyWorld(t, version)
			admin, held := w.administrator(), m.held(t)
			if len(held.Authorities) != 5 || len(held.Keys) != 2 {
				t.Fatalf("the local issuer holds %s", held)
			}
			before := m.pairs(t)
			w.adoptKilled(t, admin, held)
			w.sameAuthorities(t, m, held)

			// The host's spec names Vault from here on.
			n := w.nodeOf(w.fleet.Hosts[0], m.root)
			if _, err := n.Enroll(t.Context(), n.token(10*time.Minute)); err != nil {
				t.Fatal(err)
			}
			n.nothingToDo()
			after := m.pairs(t)
			delete(after, layout.CertNodeagent)
			if !maps.Equal(before, after) {
				t.Errorf("certificates were issued again:\nbefore %v\nafter  %v", before, after)
			}
			n.reissues(layout.CertEtcdPeer, layout.CertAPIServer)
			w.tokensVerify(t, m)

			left := pki.LeftAuthorities(m.root)
			changes, kept := n.forget(left)
			if len(left) != 5 || len(changes) != 0 || len(kept) != 5 || !strings.Contains(kept[0], "rotate-ca etcd-server") {
				t.Errorf("before any CA is changed, what the local issuer left could go: %v, %v", changes, kept)
			}
			alarm := n.alarms()
			if !strings.Contains(alarm, "CA keys of the local issuer still lie on this host") || !strings.Contains(alarm, "rotate-ca") {
				t.Errorf("no alarm tells of the keys that are left: %q", alarm)
			}

			for _, a := range held.Authorities {
				w.changeKilled(t, admin, n, a.Name)
			}
			changes, kept = n.forget(left)
			if keyring := how != pki.ProtectPlain; len(changes) != 5 && !keyring || len(changes) != 6 && keyring || len(kept) != 0 {
				t.Fatalf("what the local issuer left may not go: %v", kept)
			}
			if alarm := n.alarms(); !strings.Contains(alarm, "forget-local removes them") {
				t.Errorf("no alarm tells of the keys that are left for nothing: %q", alarm)
			}
			if err := n.applier().Apply(t.Context(), changes, plan.Silent{}); err != nil {
				t.Fatal(err)
			}
			if left := pki.LeftAuthorities(m.root); len(left) > 0 || n.alarms() != "" {
				t.Errorf("%v is left still; %s", left, n.alarms())
			}
			n.nothingToDo()
			w.tokensVerify(t, m)
			if findings, err := Check(t.Context(), admin, w.fleet, time.Now()); err != nil || len(findings) != 0 {
				t.Errorf("in the end there is %+v, %v", findings, err)
			}
		})
	}
}

// adoptKilled has Vault go on as the local issuer, killed after each write.
func (w *world) adoptKilled(t *testing.T, admin *api.Client, held pki.Held) {
	t.Helper()
	deadline, runs := time.Now().Add(2*time.Minute), 0
	for ; ; runs++ {
		changes, err := adoption(t.Context(), admin, w.fleet, held)
		if err != nil {
			t.Fatal(err)
		}
		noSecret(t, printed(changes))
		if len(changes) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d runs there is still to do:\n%s", runs, printed(changes))
		}
		err = Apply(t.Context(), killed(t, admin, 1), w.place, changes, plan.Silent{})
		if err == nil || !strings.Contains(err.Error(), errKilled.Error()) {
			t.Fatalf("run %d was not killed: %v", runs, err)
		}
		noSecret(t, err.Error())
	}
	t.Logf("adopted in %d runs", runs)
	if runs < 40 {
		t.Errorf("only %d runs: was every write killed?", runs)
	}
}

// pairs are the serial numbers of the certificates on the host, by name.
func (m member) pairs(t *testing.T) map[string]string {
	t.Helper()
	have, err := pki.Observe(t.Context(), m.root)
	if err != nil {
		t.Fatal(err)
	}
	serials := map[string]string{}
	for _, c := range have.Certificates {
		serials[c.Name] = c.Found.Serial
	}
	return serials
}

// sameAuthorities: what Vault gives as trust bundle is what lies on the host,
// byte by byte, and what is shared is the same.
func (w *world) sameAuthorities(t *testing.T, m member, held pki.Held) {
	t.Helper()
	n := w.nodeOf(w.fleet.Hosts[0], layout.Root(t.TempDir()))
	for _, a := range held.Authorities {
		have, err := os.ReadFile(m.root.Trust(a.Name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.Bundle(t.Context(), a.Name)
		if err != nil || !bytes.Equal(got, have) {
			t.Errorf("Vault's bundle of %s is another one than the host's (%v)", a.Name, err)
		}
	}
	for _, k := range held.Keys {
		secret, err := w.client.Logical().Read(w.place.Secret(k.Name))
		if err != nil {
			t.Fatal(err)
		}
		if content, err := decodeSecret(secret); err != nil || !bytes.Equal(content, k.Content) {
			t.Errorf("Vault's %s is another one than the host's (%v)", k.Name, err)
		}
	}
}

// tokensVerify: what the host's key signs, a control plane that has its keys from
// Vault alone accepts, and it can read what the host encrypted.
func (w *world) tokensVerify(t *testing.T, m member) {
	t.Helper()
	other := w.nodeOf(w.fleet.Hosts[0], layout.Root(t.TempDir()))
	if _, err := other.Enroll(t.Context(), other.token(10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	other.keys()
	block, _ := pem.Decode(fileOf(t, m.root.ServiceAccountKey()))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("header.payload"))
	signature, err := key.(crypto.Signer).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(fileOf(t, other.root.ServiceAccountPublic()))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("a token of the host does not verify elsewhere (%v)", err)
	}
	if !bytes.Equal(fileOf(t, m.root.EncryptionConfig()), fileOf(t, other.root.EncryptionConfig())) {
		t.Error("what the host encrypts cannot be read elsewhere")
	}
}

// forget asks Vault what it vouches for, and plans.
func (n *node) forget(left []pki.LeftAuthority) ([]plan.Change, []string) {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	vouched, err := n.Vouched(n.t.Context(), left)
	if err != nil {
		n.t.Fatal(err)
	}
	return pki.Forget(left, have, pki.Want(n.spec), vouched)
}
