package agent

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// vaultFleet is a cluster of one host whose issuer is the server, which has
// everything that the fleet needs.
func vaultFleet(t *testing.T, server *servers.Server, pkiLines string) *hosts.Spec {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"cluster.toml": `[cluster]
name = "one"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
[pki]
issuer = "vault"
[pki.vault]
address = "` + server.Address + `"
ca_file = "` + server.CAFile + `"
` + pkiLines,
		"n1.toml": "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"192.0.2.10\"\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fleet, err := hosts.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := vault.Want(fleet)
	if err != nil {
		t.Fatal(err)
	}
	client, place := server.Client(), vault.Place(fleet.Hosts[0].PKI.Vault.Mount)
	have, err := vault.Observe(t.Context(), client, place)
	if err == nil {
		err = vault.Apply(t.Context(), client, place, vault.Diff(have, want), plan.Silent{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Hosts[0]
}

// One login serves a whole converge and those after it, and is given back at
// the end; with Vault down the domain says so in a line a change, soon.
func TestOneLogin(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := servers.Start(t, version)
			spec := vaultFleet(t, server, "")
			h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
			h.setSpec(spec)
			if list := h.loginProblems(); len(list) != 1 || !strings.Contains(list[0], "nodeagent enroll") {
				t.Errorf("problems %q", list)
			}
			e, err := vault.MintEnrolment(t.Context(), server.Client(), spec, time.Minute)
			if err == nil {
				_, err = h.vault(spec).Enroll(t.Context(), e.Token)
			}
			if err != nil {
				t.Fatal(err)
			}
			h.closeLogin()
			before := requests(t, server)
			began := time.Now()
			for range 2 {
				if err := Converge(t.Context(), []Domain{h.pkiDomain()}, plan.Silent{}).Err(); err != nil {
					t.Fatal(err)
				}
			}
			after := requests(t, server)
			t.Logf("converged in %s, %d requests", time.Since(began).Round(time.Millisecond), strings.Count(after, "\n")-strings.Count(before, "\n"))
			logins := func(log string) int { return strings.Count(log, `"path":"auth/nodeagent/one/cert/login"`) }
			if made := logins(after) - logins(before); made != 1 {
				t.Errorf("%d logins, want 1", made)
			}
			if list := h.loginProblems(); len(list) != 0 {
				t.Errorf("problems %q", list)
			}
			first := h.vault(spec)
			h.closeLogin()
			if ended := strings.Count(requests(t, server), `"path":"auth/token/revoke-self"`) - strings.Count(after, `"path":"auth/token/revoke-self"`); ended != 1 {
				t.Errorf("%d tokens given back, want 1", ended)
			}
			if h.vault(spec) == first {
				t.Error("a login that was closed is used again")
			}
			// Everything is due, and Vault is down.
			server.Stop()
			if err := os.RemoveAll(h.root.PKI()); err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			err = Converge(t.Context(), []Domain{h.pkiDomain()}, plan.Silent{}).Err()
			if pki.CauseOf(err) != pki.CauseUnreachable || !strings.Contains(err.Error(), "nobody listens at "+server.Address) {
				t.Errorf("error %v", err)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %s to say so", took)
			}
		})
	}
}

// requests are the requests in the server's audit log, without the answers.
func requests(t *testing.T, server *servers.Server) string {
	t.Helper()
	content, err := os.ReadFile(server.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range bytes.Lines(content) {
		if bytes.Contains(line, []byte(`"type":"request"`)) {
			b.Write(line)
		}
	}
	return b.String()
}

// The kept login follows the spec, and ends with the daemon.
func TestLoginFollowsTheSpec(t *testing.T) {
	of := func(address string) *hosts.Spec {
		return &hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: pki.IssuerVault, Vault: &hosts.Vault{Address: address, Mount: "nodeagent/one", Auth: "cert"}}}
	}
	h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	issuer := func() pki.Issuer {
		t.Helper()
		issuer, err := h.issuer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return issuer
	}
	h.setSpec(of("https://192.0.2.1:8200"))
	first := issuer()
	h.setSpec(of("https://192.0.2.1:8200"))
	if issuer() != first {
		t.Error("the same place has another login")
	}
	h.keepLogin(t.Context())
	h.setSpec(of("https://192.0.2.2:8200"))
	if h.login.issuer == nil || pki.Issuer(h.login.issuer) == first || h.login.stop == nil {
		t.Error("another place has the same login, or is not kept")
	}
	h.setSpec(&hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: pki.IssuerLocal}})
	if _, ok := issuer().(*pki.Local); !ok || h.login.issuer != nil || h.login.stop != nil {
		t.Error("the login outlives its spec")
	}
	h.setSpec(&hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: "other"}})
	if _, err := h.issuer(t.Context()); err == nil || !strings.Contains(err.Error(), `unknown; known are "local" and "vault"`) {
		t.Errorf("error %v", err)
	}
}
