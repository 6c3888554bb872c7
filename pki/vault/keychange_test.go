package vault

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// TestChangeKeys changes both keys in Vault with the token of an administrator,
// while two control planes follow.
func TestChangeKeys(t *testing.T) {
	files := trio("")
	files["n2.toml"] = strings.Replace(files["n1.toml"], "192.0.2.1", "192.0.2.2", -1)
	files["n3.toml"] = strings.Replace(files["n3.toml"], `["worker"]`, `["worker", "etcd"]`, 1)
	eachVault(t, files, func(t *testing.T, w *world) {
		nodes := []*node{w.enrolled("n1"), w.enrolled("n2")}
		for _, n := range nodes {
			n.keys()
		}
		policy := "keys-admin"
		if err := w.client.Sys().PutPolicyWithContext(t.Context(), policy, AdminPolicy(w.fleet)); err != nil {
			t.Fatal(err)
		}
		admin, err := w.client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		admin.SetToken(vaultWrite(t, w.client, "auth/token/create", map[string]any{"policies": []string{policy}}).Auth.ClientToken)
		changer, err := NewChanger(admin, w.fleet)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{pki.KeyServiceAccount, pki.KeyEncryption} {
			old := nodes[0].report().Keys[name]
			steps := 0
			lead := func(back bool, overlap time.Duration) error {
				c := pki.KeyCoordinator{
					Keys: changer, Store: changer, Secrets: rewritten{}, Poll: time.Millisecond, Overlap: overlap,
					Uses: func(context.Context, string) ([]pki.Use, error) {
						reports := map[string]pki.Report{}
						for _, n := range nodes {
							reports[n.name] = n.report()
						}
						return pki.KeyUses(w.fleet.Hosts, reports, name, time.Now()), nil
					},
					Follow: func(context.Context) error {
						for _, n := range nodes {
							n.refreshKeys()
						}
						return nil
					},
					Tell: func(pki.KeyDo, pki.Change, []pki.Use, int) { steps++ },
				}
				return c.Run(t.Context(), name, back)
			}
			if err := lead(false, time.Second); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, n := range nodes {
				have := n.report().Keys[name]
				if len(old) != 1 || len(have) != 1 || have[0] == old[0] {
					t.Errorf("%s of %s is %v, was %v", name, n.name, have, old)
				}
			}
			if steps < 6 {
				t.Errorf("%s: only %d steps", name, steps)
			}
			if change, err := changer.Load(t.Context(), "key-"+name); change != nil || err != nil {
				t.Errorf("%s: it is still remembered: %+v, %v", name, change, err)
			}
			if err := lead(true, 0); err == nil {
				t.Errorf("%s: turned back what is done", name)
			}
			w.olderVersions(name)
		}
	})
}

// TestKeysByCheckAndSet: of two who write at once one is refused.
func TestKeysByCheckAndSet(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n1")
		n.keys()
		changer, err := NewChanger(w.client, w.fleet)
		if err != nil {
			t.Fatal(err)
		}
		const name = pki.KeyEncryption
		content, version, err := changer.ReadKey(t.Context(), name)
		if err != nil || version != 1 {
			t.Fatalf("version %d, %v", version, err)
		}
		if err := changer.WriteKey(t.Context(), name, append(content, '\n'), version); err != nil {
			t.Fatal(err)
		}
		err = changer.WriteKey(t.Context(), name, []byte("lost"), version)
		if err == nil || !strings.Contains(err.Error(), "run the command again") {
			t.Errorf("written over another's: %v", err)
		}
		if now, version, err := changer.ReadKey(t.Context(), name); err != nil || version != 2 || string(now) != string(content)+"\n" {
			t.Errorf("version %d, %v", version, err)
		}
		w.delete(w.place.Secret(name))
		if _, _, err := changer.ReadKey(t.Context(), name); err == nil || !strings.Contains(err.Error(), "deleted") {
			t.Errorf("a deleted one: %v", err)
		}
		w.delete(w.place.Secrets() + "/metadata/" + name)
		if _, _, err := changer.ReadKey(t.Context(), name); err == nil || !strings.Contains(err.Error(), "first control plane") {
			t.Errorf("none: %v", err)
		}
	})
}

// rewritten are Secrets that are written anew as soon as somebody asks.
type rewritten struct{}

func (rewritten) Left(context.Context, string) (int, error) { return 0, nil }
func (rewritten) Rewrite(context.Context, string) error     { return nil }

// keyState is what a control plane wants of its secrets alone.
func (n *node) keyState() pki.State {
	want := pki.Want(n.spec)
	return pki.State{Host: want.Host, Keys: want.Keys}
}

func (n *node) applier() *pki.Applier {
	return &pki.Applier{Root: n.root, Issuer: func(context.Context) (pki.Issuer, error) { return n.Issuer, nil }}
}

// keys fetches, or makes, the host's secrets.
func (n *node) keys() {
	n.t.Helper()
	changes := slices.DeleteFunc(pki.Diff(pki.State{}, n.keyState(), time.Now()), func(c plan.Change) bool { return !strings.HasPrefix(c.Key, "key ") })
	if err := n.applier().Apply(n.t.Context(), changes, plan.Silent{}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) refreshKeys() {
	n.t.Helper()
	if _, err := n.applier().RefreshKeys(n.t.Context(), n.keyState()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) report() pki.Report {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	r := pki.NewReport(have, n.keyState(), time.Now())
	r.Proven = true
	return r
}

// olderVersions: private keys that signed tokens are gone from Vault, keys that
// snapshots need are not.
func (w *world) olderVersions(name string) {
	w.t.Helper()
	for version := range 3 {
		answer, err := w.client.Logical().ReadWithDataWithContext(w.t.Context(), w.place.Secret(name), map[string][]string{"version": {string(rune('1' + version))}})
		if err != nil || answer == nil {
			w.t.Fatalf("%s: read version %d: %v", name, version+1, err)
		}
		there := answer.Data["data"] != nil
		if there != (name == pki.KeyEncryption) {
			w.t.Errorf("%s: version %d is there: %v", name, version+1, there)
		}
	}
}
