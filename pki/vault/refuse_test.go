package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// do is an administrator's write.
func (w *world) do(path string, data map[string]any) {
	w.t.Helper()
	if _, err := w.client.Logical().WriteWithContext(w.t.Context(), path, data); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(path string) {
	w.t.Helper()
	if _, err := w.client.Logical().DeleteWithContext(w.t.Context(), path); err != nil {
		w.t.Fatal(err)
	}
}

// revokeTokens ends every token that a method has given.
func (w *world) revokeTokens(method string) {
	w.t.Helper()
	w.do("sys/leases/revoke-prefix/auth/"+w.place.Auth(method)+"/login", nil)
}

// refused checks that an error is a refusal for the cause, in one line that has
// the words, with a remedy, and without a secret.
func refused(t *testing.T, err error, cause pki.Cause, words ...string) {
	t.Helper()
	var r *pki.Refusal
	if !errors.As(err, &r) {
		t.Errorf("error %v, want a refusal", err)
		return
	}
	t.Log(err)
	if r.Cause != cause {
		t.Errorf("the issuer %s; want %s", r.Cause, cause)
	}
	text := err.Error()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in: %s", word, text)
		}
	}
	if strings.ContainsAny(text, "\n\t") {
		t.Errorf("not one line: %q", text)
	}
	if r.Remedy == "" || strings.HasSuffix(r.Remedy, ".") {
		t.Errorf("remedy %q", r.Remedy)
	}
	noSecret(t, text)
}

// calm waits until an outage that was met is not remembered any more.
func (n *node) calm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outage = outage{}
}

func TestRefusals(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n, etcd := w.enrolled("n3"), w.enrolled("n2")
		peer := etcd.request("etcd-peer")
		client := n.request("kubelet-client")
		roleOf := func(n *node, r pki.Request) string {
			return w.place.Engine(r.CA) + "/roles/" + w.place.Role(n.name, r.Name)
		}
		change := func(path string, data map[string]any) {
			t.Helper()
			role, err := w.client.Logical().ReadWithContext(t.Context(), path)
			if err != nil || role == nil {
				t.Fatalf("read %s: %v", path, err)
			}
			for name, value := range data {
				role.Data[name] = value
			}
			w.do(path, role.Data)
		}
		tests := []struct {
			name  string
			spoil func()
			mend  func()
			ask   func() error
			cause pki.Cause
			words []string
		}{
			{
				"sealed", w.server.Seal, w.server.Unseal,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnreachable,
				[]string{`sign "kubelet-client": the issuer cannot be reached`, "sealed", "vault operator unseal"},
			},
			{
				"sealed, bundle", w.server.Seal, w.server.Unseal,
				func() error { _, err := n.Bundle(t.Context(), layout.CAK8sClient); return err },
				pki.CauseUnreachable,
				[]string{`fetch trust bundle "k8s-client"`, "sealed", "vault operator unseal"},
			},
			{
				"down", w.server.Stop, w.server.Restart,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnreachable,
				[]string{"connection refused", "nobody listens at https://127.0.0.1:"},
			},
			{
				"hanging", w.server.Freeze, w.server.Thaw,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnreachable,
				[]string{"no answer from https://127.0.0.1:", "within 10s"},
			},
			{
				"rate limited", func() {
					w.do("sys/quotas/rate-limit/test", map[string]any{"path": w.place.Engine(client.CA) + "/", "rate": 1, "interval": "1h"})
					_, _ = n.Bundle(t.Context(), client.CA) // takes what there is
					n.calm()
				},
				func() { w.delete("sys/quotas/rate-limit/test") },
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnreachable,
				[]string{"HTTP 429", "asks for patience", "sys/quotas/rate-limit"},
			},
			{
				"denied", func() {
					w.do("sys/policies/acl/"+w.place.Policy("n3"), map[string]any{"policy": `path "auth/token/renew-self" { capabilities = ["update"] }`})
				}, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseDenied,
				[]string{"permission denied", "nodeagent pki bootstrap", "nodeagent pki check"},
			},
			{
				"role missing", func() { w.delete(roleOf(n, client)) }, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseMissing,
				[]string{"unknown role", "n3.kubelet-client", "nodeagent pki bootstrap"},
			},
			{
				"authority ends first", func() { change(roleOf(n, client), map[string]any{"ttl": "87600h", "max_ttl": "87600h"}) }, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnfit,
				[]string{"beyond the expiration of the CA", "rotate-ca", "pki.lifetime"},
			},
			{
				"name not allowed", func() { change(roleOf(n, client), map[string]any{"allowed_domains": "system:node:n4"}) }, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseUnfit,
				[]string{"system:node:n3", "not allowed", "n3.kubelet-client", "nodeagent pki bootstrap"},
			},
			{
				"addresses not allowed", func() { change(roleOf(etcd, peer), map[string]any{"allow_ip_sans": false}) }, w.bootstrap,
				func() error { _, err := etcd.trySign(peer); return err },
				pki.CauseUnfit,
				[]string{"not allowed", "n2.etcd-peer"},
			},
			{
				"key type", func() { change(roleOf(etcd, peer), map[string]any{"key_type": "rsa", "key_bits": 2048}) }, w.bootstrap,
				func() error { _, err := etcd.trySign(peer); return err },
				pki.CauseUnfit,
				[]string{"n2.etcd-peer", "rsa"},
			},
			{
				"a secret of the control plane", func() {}, func() {},
				func() error { _, err := n.Secret(t.Context(), pki.KeyEncryption, nothing); return err },
				pki.CauseDenied,
				[]string{`read secret "encryption"`, "permission denied"},
			},
			{
				"login removed", func() {
					w.delete("auth/" + w.place.Auth(authCert) + "/certs/n3")
					w.revokeTokens(authCert)
				}, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseLogin,
				[]string{`sign "kubelet-client": log in as "n3" (cert): the issuer knows this host not`, "nodeagent enroll"},
			},
			{
				"method removed", func() { w.delete("sys/auth/" + w.place.Auth(authCert)) }, w.bootstrap,
				func() error { _, err := n.trySign(client); return err },
				pki.CauseMissing,
				[]string{"nothing is mounted at auth/nodeagent/small/cert", "nodeagent pki bootstrap"},
			},
			{
				"engine removed", func() { w.delete("sys/mounts/" + w.place.Engine(client.CA)) }, func() {},
				func() error { _, err := n.trySign(client); return err },
				pki.CauseMissing,
				[]string{"nothing is mounted at nodeagent/small/k8s-client", "nodeagent pki bootstrap"},
			},
			{
				"engine removed, bundle", func() {}, func() {},
				func() error { _, err := n.Bundle(t.Context(), client.CA); return err },
				pki.CauseMissing,
				[]string{"nothing is mounted at nodeagent/small/k8s-client"},
			},
			{
				"no authority, bundle", func() { w.do("sys/mounts/"+w.place.Engine(client.CA), map[string]any{"type": "pki"}) }, func() {},
				func() error { _, err := n.Bundle(t.Context(), client.CA); return err },
				pki.CauseMissing,
				[]string{"nodeagent/small/k8s-client has no authority", "nodeagent pki bootstrap"},
			},
			{
				"no authority", func() { w.bootstrapRolesOnly(roleOf(n, client), client) }, func() {},
				func() error { _, err := n.trySign(client); return err },
				pki.CauseMissing,
				[]string{"nodeagent/small/k8s-client has no authority"},
			},
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				n.calm()
				etcd.calm()
				test.spoil()
				err := test.ask()
				test.mend()
				refused(t, err, test.cause, test.words...)
			})
		}
	})
}

// bootstrapRolesOnly makes a role in an engine without an authority.
func (w *world) bootstrapRolesOnly(path string, r pki.Request) {
	w.do(path, map[string]any(roleFields(r)))
}

func nothing() ([]byte, error) { return nil, errors.New("nothing is to be made") }

// Whatever answers at the address and is not Vault, or not the fleet's, is told
// from it; a CA file that a person corrects is read again.
func TestUntrusted(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		client := n.request("kubelet-client")
		with := func(edit func(v *hosts.Vault)) *node {
			spec, v := *n.spec, *n.spec.PKI.Vault
			edit(&v)
			spec.PKI.Vault = &v
			return w.nodeOf(&spec, n.root)
		}
		other := httptest.NewTLSServer(http.NotFoundHandler())
		defer other.Close()
		plainHTTP := httptest.NewServer(http.NotFoundHandler())
		defer plainHTTP.Close()
		file := filepath.Join(t.TempDir(), "ca.crt")
		tests := []struct {
			name  string
			edit  func(v *hosts.Vault)
			words []string
		}{
			{"another server", func(v *hosts.Vault) { v.Address = other.URL }, []string{"not signed by the CA in " + n.vault.CAFile}},
			{"system's CAs", func(v *hosts.Vault) { v.CAFile = "" }, []string{"not signed by the CA in the system's bundle"}},
			{"no TLS", func(v *hosts.Vault) { v.Address = "https://" + strings.TrimPrefix(plainHTTP.URL, "http://") }, []string{"speaks no TLS"}},
			{"no CA file", func(v *hosts.Vault) { v.CAFile = file }, []string{file, "correct pki.vault.ca_file"}},
			{"another name", func(v *hosts.Vault) { v.Address = "https://127.0.0.2:" + w.server.Port() }, nil},
		}
		for _, test := range tests {
			m := with(test.edit)
			_, err := m.trySign(client)
			if test.name == "another name" {
				continue // nobody listens there; the words are in TestUnanswered
			}
			refused(t, err, pki.CauseUntrusted, test.words...)
			_, err = m.Bundle(t.Context(), client.CA)
			refused(t, err, pki.CauseUntrusted, test.words...)
		}
		m := with(func(v *hosts.Vault) { v.CAFile = file })
		if _, err := m.Bundle(t.Context(), client.CA); pki.CauseOf(err) != pki.CauseUntrusted {
			t.Errorf("error %v", err)
		}
		content, err := os.ReadFile(w.server.CAFile)
		if err == nil {
			err = os.WriteFile(file, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Bundle(t.Context(), client.CA); err != nil {
			t.Errorf("after the file was put there: %v", err)
		}
		if _, err := m.trySign(client); err != nil {
			t.Errorf("after the file was put there: %v", err)
		}
		// So is it by who is logged in while Vault gets a certificate of another
		// CA; here it is the connections that know another one.
		m.session.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		m.session.transport.CloseIdleConnections()
		_, err = m.trySign(client)
		refused(t, err, pki.CauseUntrusted)
		if _, err := m.trySign(client); err != nil {
			t.Errorf("after the CA has changed: %v", err)
		}
	})
}

// However a secret id is printed, it is hidden; only its file has it.
func TestHidden(t *testing.T) {
	c := credential{RoleID: "n1", SecretID: "5ec4e7", Accessor: "a"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("test", "id", c.SecretID)
	texts := []string{log.String(), c.SecretID.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		texts = append(texts, fmt.Sprintf(verb, c), fmt.Sprintf(verb, c.SecretID), fmt.Sprintf(verb, &c), fmt.Sprint(c.SecretID))
	}
	for _, text := range texts {
		if strings.Contains(text, "5ec4e7") || strings.Contains(text, fmt.Sprintf("%x", "5ec4e7")) {
			t.Errorf("it is in %s", text)
		}
	}
}

// A token that was revoked is replaced without anybody noticing; after an
// outage the issuer works as before.
func TestComesBack(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		client := n.request("kubelet-client")
		for _, trouble := range []struct {
			name string
			make func()
		}{
			{"nothing", func() {}},
			{"token revoked", func() { w.revokeTokens(authCert) }},
			{"restart", func() { w.server.Stop(); w.server.Restart() }},
			{"seal", func() { w.server.Seal(); w.server.Unseal() }},
			{"restart and revoked", func() { w.server.Stop(); w.server.Restart(); w.revokeTokens(authCert) }},
		} {
			trouble.make()
			if _, err := n.trySign(client); err != nil {
				t.Errorf("%s: %v", trouble.name, err)
			}
		}
		// A moment's outage is bridged by the issuer itself.
		w.server.Stop()
		answered := make(chan error, 1)
		go func() { _, err := n.trySign(client); answered <- err }()
		w.server.Restart()
		if err := <-answered; err != nil && pki.CauseOf(err) != pki.CauseUnreachable {
			t.Error(err)
		}
	})
}

// With Vault down one request finds out, and the others of the same converge
// hear of it at once.
func TestOutageIsFoundOutOnce(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		client := n.request("kubelet-client")
		w.server.Stop()
		began := time.Now()
		_, err := n.trySign(client)
		refused(t, err, pki.CauseUnreachable)
		first := time.Since(began)
		for range 20 {
			_, err := n.trySign(client)
			refused(t, err, pki.CauseUnreachable, "nobody listens")
		}
		if all := time.Since(began); all > first+outageMemory/2 {
			t.Errorf("the first took %s, all %s", first, all)
		}
		// One that is silent keeps a login waiting for as long as a request may
		// take; who waits for that login hears of it with him.
		w.server.Restart()
		m := n.again()
		w.server.Freeze()
		defer w.server.Thaw()
		began = time.Now()
		var waiting sync.WaitGroup
		for range 8 {
			waiting.Go(func() {
				_, err := m.trySign(client)
				refused(t, err, pki.CauseUnreachable, "no answer from")
			})
		}
		waiting.Wait()
		if took := time.Since(began); took > requestTimeout+outageMemory {
			t.Errorf("8 at once took %s to find out", took)
		}
	})
}

func TestUnanswered(t *testing.T) {
	v := &hosts.Vault{Address: "https://vault.example.org:8200", Mount: "nodeagent/small"}
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	tests := []struct {
		err    error
		cause  pki.Cause
		remedy string
	}{
		{dial(&net.DNSError{Err: "no such host", Name: "vault.example.org"}), pki.CauseUnreachable, "resolvers"},
		{dial(os.ErrDeadlineExceeded), pki.CauseUnreachable, "no answer"},
		{fmt.Errorf("Put: %w", context.DeadlineExceeded), pki.CauseUnreachable, "no answer"},
		{&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}, pki.CauseUnreachable, "a way to it"},
		{context.Canceled, pki.CauseUnknown, ""},
		{&caFileError{"/ca.crt", fs.ErrNotExist}, pki.CauseUntrusted, "ca_file"},
		{errors.New("something else"), pki.CauseUnknown, ""},
		{&api.ResponseError{StatusCode: 502, RawError: true, Errors: []string{"<html>\n<body>" + strings.Repeat("bad gateway ", 100)}}, pki.CauseUnreachable, "Vault's own log"},
		{&api.ResponseError{StatusCode: 500, Errors: []string{"internal error"}}, pki.CauseUnreachable, "Vault's own log"},
		{&api.ResponseError{StatusCode: 418}, pki.CauseUnknown, ""},
	}
	for _, test := range tests {
		err := refuse(asked{vault: v, host: "n1", what: `sign "x"`, engine: "nodeagent/small/etcd-peer"}, test.err)
		var r *pki.Refusal
		if !errors.As(err, &r) || r.Cause != test.cause || !strings.Contains(r.Remedy, test.remedy) || test.remedy == "" && r.Remedy != "" {
			t.Errorf("%v: %v, want %s with %q", test.err, err, test.cause, test.remedy)
		}
		if strings.Contains(err.Error(), "\n") || len(err.Error()) > 700 {
			t.Errorf("not one short line: %q", err)
		}
		if !errors.Is(err, test.err) {
			t.Errorf("%v does not wrap what was said", err)
		}
	}
}
