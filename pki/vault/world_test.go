package vault

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// world is a real Vault with everything of one fleet in it.
type world struct {
	t      testing.TB
	server *servers.Server
	client *api.Client // of the administrator
	fleet  *hosts.Fleet
	place  Place
}

// eachVault runs a test against every version of Vault, each with the fleet.
func eachVault(t *testing.T, fleet map[string]string, test func(t *testing.T, w *world)) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, version, fleet))
		})
	}
}

func newWorld(t testing.TB, version string, files map[string]string) *world {
	t.Helper()
	server := servers.Start(t, version)
	w := &world{t: t, server: server, client: server.Client()}
	w.setFleet(files)
	w.bootstrap()
	return w
}

// setFleet writes the files, with the server's address and CA in place of
// ADDRESS and CAFILE, and loads them.
func (w *world) setFleet(files map[string]string) {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, content := range files {
		content = strings.NewReplacer("ADDRESS", w.server.Address, "CAFILE", w.server.CAFile).Replace(content)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	fleet, err := hosts.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.fleet, w.place = fleet, Place(fleet.Hosts[0].PKI.Vault.Mount)
}

// bootstrap makes what the fleet needs.
func (w *world) bootstrap() {
	w.t.Helper()
	want, err := Want(w.fleet)
	if err != nil {
		w.t.Fatal(err)
	}
	for range 4 {
		have, err := Observe(w.t.Context(), w.client, w.place)
		if err != nil {
			w.t.Fatal(err)
		}
		changes := Diff(have, want)
		if len(changes) == 0 {
			return
		}
		if err := Apply(w.t.Context(), w.client, w.place, changes, plan.Silent{}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Fatal("bootstrap finds something to do every time")
}

// node is one host of the world: a folder, an issuer and what it logged.
type node struct {
	*Issuer
	w    *world
	t    testing.TB
	name string
	logs *journal
}

// node makes a host that knows nothing of Vault yet.
func (w *world) node(name string) *node {
	w.t.Helper()
	spec, err := w.fleet.Host(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.nodeOf(spec, layout.Root(w.t.TempDir()))
}

func (w *world) nodeOf(spec *hosts.Spec, root layout.Root) *node {
	logs := &journal{}
	n := &node{Issuer: New(spec, root, slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))), w: w, t: w.t, name: spec.Name, logs: logs}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = n.Close(ctx) // the server may be gone
		noSecret(w.t, logs.String())
	})
	return n
}

// enrolled is a host that has been enrolled.
func (w *world) enrolled(name string) *node {
	w.t.Helper()
	n := w.node(name)
	if _, err := n.Enroll(w.t.Context(), n.token(10*time.Minute)); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// token mints an enrolment token for the host.
func (n *node) token(ttl time.Duration) string {
	n.t.Helper()
	e, err := MintEnrolment(n.t.Context(), n.w.client, n.spec, ttl)
	if err != nil {
		n.t.Fatal(err)
	}
	return e.Token
}

// request is what the host wants of one name.
func (n *node) request(name string) pki.Request {
	n.t.Helper()
	for _, r := range pki.Requests(n.spec) {
		if r.Name == name {
			return r
		}
	}
	n.t.Fatalf("host %s wants no certificate %q", n.name, name)
	return pki.Request{}
}

// trySign asks for a certificate with a key of its own.
func (n *node) trySign(r pki.Request) ([]byte, error) {
	n.t.Helper()
	_, csr := newCSR(n.t, r)
	return n.Sign(n.t.Context(), r, csr)
}

// secretShapes are what Vault's tokens, JWTs and private keys look like.
var secretShapes = regexp.MustCompile(`hv[sb]\.[A-Za-z0-9_-]{8,}|\bs\.[A-Za-z0-9]{20,}|eyJ[A-Za-z0-9_-]{10,}|PRIVATE KEY`)

// noSecret checks that a log or an error holds no token and no key.
func noSecret(t testing.TB, text string) {
	t.Helper()
	if found := secretShapes.FindString(text); found != "" {
		t.Errorf("there is a secret (%.12s…) in: %s", found, text)
	}
}

// journal gathers what was logged; goroutines may write at once.
type journal struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.String()
}

// trio is a fleet of three hosts with few certificates: a control plane, an
// etcd member and a worker; extra is added to [pki.vault].
func trio(extra string) map[string]string {
	host := func(role string, last int) string {
		return fmt.Sprintf("[host]\nroles = [%q]\naddress = \"192.0.2.%d\"\n\n[network.link.eth0]\naddresses = [\"192.0.2.%d/24\"]\n", role, last, last)
	}
	return map[string]string{
		"cluster.toml": `[cluster]
name = "small"

[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
endpoint = "192.0.2.1:6443"
cni = "none"

[pki]
issuer = "vault"
lifetime = "720h"
renew_before = "240h"

[pki.vault]
address = "ADDRESS"
ca_file = "CAFILE"
` + extra,
		"n1.toml": host("control-plane", 1),
		"n2.toml": host("etcd", 2),
		"n3.toml": host("worker", 3),
	}
}
