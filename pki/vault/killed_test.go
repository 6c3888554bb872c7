package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// administrator is a client with the token that the printed policy describes.
func (w *world) administrator() *api.Client {
	w.t.Helper()
	const policy = "cluster-admin"
	if err := w.client.Sys().PutPolicyWithContext(w.t.Context(), policy, AdminPolicy(w.fleet)); err != nil {
		w.t.Fatal(err)
	}
	admin, err := w.client.Clone()
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := w.client.Logical().Write("auth/token/create", map[string]any{"policies": []string{policy}})
	if err != nil {
		w.t.Fatal(err)
	}
	admin.SetToken(secret.Auth.ClientToken)
	return admin
}

// killed is a client that does not live longer than a number of writes: Vault
// carries the last one out, and nobody hears of it.
func killed(t *testing.T, client *api.Client, writes int) *api.Client {
	t.Helper()
	config := client.CloneConfig()
	config.MaxRetries = 0
	config.HttpClient = &http.Client{Transport: &dying{under: config.HttpClient.Transport, left: writes}}
	dies, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	dies.SetToken(client.Token())
	return dies
}

var errKilled = errors.New("killed")

type dying struct {
	under http.RoundTripper
	mu    sync.Mutex
	left  int // writes
}

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	dead := d.left == 0
	if r.Method != http.MethodGet && r.Method != "LIST" && !dead {
		d.left--
	}
	dies := d.left == 0
	d.mu.Unlock()
	if dead {
		return nil, errKilled
	}
	answer, err := d.under.RoundTrip(r)
	if err == nil && dies {
		answer.Body.Close()
		return nil, errKilled
	}
	return answer, err
}

// changeKilled changes a CA in Vault, killed after each write, while the host
// follows. The first write of each run remembers once more what it leads to.
func (w *world) changeKilled(t *testing.T, admin *api.Client, n *node, ca string) {
	t.Helper()
	old, deadline := n.uses().Trust[ca], time.Now().Add(2*time.Minute)
	lead := func(client *api.Client) error {
		changer, err := NewChanger(client, w.fleet)
		if err != nil {
			return err
		}
		return n.leads(changer).Run(t.Context(), ca, false)
	}
	runs := 0
	for {
		runs++
		if n.uses().Trust[ca][0] != old[0] && len(n.uses().Trust[ca]) == 1 {
			break
		}
		if err := lead(killed(t, admin, 2)); err == nil || !strings.Contains(err.Error(), errKilled.Error()) || time.Now().After(deadline) {
			t.Fatalf("run %d of the change of %s: %v", runs, ca, err)
		}
	}
	if runs < 4 {
		t.Errorf("the change of %s took %d runs: was every write killed?", ca, runs)
	}
	change, err := (&Changer{client: admin, place: w.place}).Load(t.Context(), ca)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil { // killed before it could be forgotten
		if err := lead(admin); err != nil {
			t.Fatal(err)
		}
	}
}

// uses is the host's report of everything that it wants.
func (n *node) uses() pki.Report {
	n.t.Helper()
	have, err := pki.Observe(n.t.Context(), n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	r := pki.NewReport(have, pki.Want(n.spec), time.Now())
	r.Proven = len(n.diff()) == 0
	return r
}

// leads is who leads a change that the host follows at once.
func (n *node) leads(changer *Changer) *pki.Coordinator {
	return &pki.Coordinator{
		Issuer: changer, Store: changer, Poll: time.Millisecond,
		Uses: func(_ context.Context, ca string) ([]pki.Use, error) {
			return pki.Uses([]*hosts.Spec{n.spec}, map[string]pki.Report{n.name: n.uses()}, ca, time.Now()), nil
		},
		Follow: func(context.Context) error { n.converge(); return nil },
		Tell:   func(pki.Do, pki.Change, []pki.Use) {},
	}
}
