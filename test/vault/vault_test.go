package vault_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/test/vault"
)

// each runs a test against every version, each with a server of its own.
func each(t *testing.T, test func(t *testing.T, s *vault.Server), opts ...vault.Option) {
	for _, version := range vault.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, vault.Start(t, version, opts...))
		})
	}
}

// eventually asks until the answer is nil.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	err := ask()
	for err != nil && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		err = ask()
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// mountKV mounts a KV v2 engine, which takes a moment to be ready.
func mountKV(t *testing.T, client *api.Client) {
	t.Helper()
	if err := client.Sys().Mount("kv", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "write to KV v2", func() error {
		_, err := client.KVv2("kv").Put(t.Context(), "first", map[string]any{"word": "kept"})
		return err
	})
}

func readKV(t *testing.T, client *api.Client) {
	t.Helper()
	secret, err := client.KVv2("kv").Get(t.Context(), "first")
	if err != nil || secret.Data["word"] != "kept" {
		t.Errorf("read KV v2: %+v, %v; want the word that was written", secret, err)
	}
}

// TestRestart stops a server and starts it again: refused meanwhile, and then
// the same address, CA, token and data.
func TestRestart(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		client := s.Client()
		health, err := client.Sys().Health()
		if err != nil || "v"+health.Version != s.Version {
			t.Errorf("health says version %+v (%v), want %s", health, err, s.Version)
		}
		mountKV(t, client)
		s.Stop()
		if _, err := client.Sys().Health(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a stopped server answers %v, want a refused connection", err)
		}
		s.Restart()
		readKV(t, client)
		s.Restart() // one that runs
		readKV(t, client)
	})
}

// TestSeal seals and unseals a running server, and starts it sealed.
func TestSeal(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		client := s.Client()
		mountKV(t, client)
		sealed := func() {
			t.Helper()
			_, err := client.KVv2("kv").Get(t.Context(), "first")
			var response *api.ResponseError
			if !errors.As(err, &response) || response.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("a sealed server answers %v, want 503", err)
			}
		}
		s.Seal()
		sealed()
		s.Unseal()
		eventually(t, "read after unsealing", func() error {
			_, err := client.KVv2("kv").Get(t.Context(), "first")
			return err
		})
		readKV(t, client)
		s.RestartSealed()
		sealed()
		s.Restart()
		readKV(t, client)
	})
}

// TestFreeze lets a server hang and go on.
func TestFreeze(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		client := s.Client()
		mountKV(t, client)
		s.Freeze()
		hasty := s.Client()
		hasty.SetClientTimeout(200 * time.Millisecond)
		if _, err := hasty.Sys().Health(); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a frozen server answers with error %v, want a timeout", err)
		}
		s.Thaw()
		readKV(t, client)
	})
}

// TestParts mounts every engine and method that the server has for nodeagent,
// and no other.
func TestParts(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		sys := s.Client().Sys()
		for _, engine := range []string{"pki", "kv"} {
			if err := sys.Mount(engine, &api.MountInput{Type: engine}); err != nil {
				t.Error(err)
			}
		}
		for _, method := range []string{"approle", "cert", "jwt"} {
			if err := sys.EnableAuthWithOptions(method, &api.EnableAuthOptions{Type: method}); err != nil {
				t.Error(err)
			}
		}
		if err := sys.Mount("transit", &api.MountInput{Type: "transit"}); err == nil {
			t.Error("an engine that the server does not have can be mounted")
		}
		if _, err := s.Client().Logical().Read("sys/plugins/catalog"); err != nil {
			t.Errorf("list plugins: %v", err)
		}
		s.Restart()
		mounts, err := sys.ListAuth()
		if err != nil || mounts["cert/"] == nil || mounts["jwt/"] == nil || mounts["approle/"] == nil {
			t.Errorf("methods after a restart: %v, %v", mounts, err)
		}
	})
}

// TestClientCertificate logs in with a certificate, which the listener must
// ask for.
func TestClientCertificate(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		client := s.Client()
		certificate, key := leaf(t, client)
		if err := client.Sys().EnableAuthWithOptions("cert", &api.EnableAuthOptions{Type: "cert"}); err != nil {
			t.Fatal(err)
		}
		authority, err := client.Logical().Read("pki/cert/ca")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Logical().Write("auth/cert/certs/host", map[string]any{
			"certificate": authority.Data["certificate"], "allowed_common_names": "n1",
		}); err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		stranger, host := s.Client(), s.Client()
		stranger.ClearToken()
		host.ClearToken()
		if _, err := stranger.Logical().Write("auth/cert/login", nil); err == nil {
			t.Error("a login without a certificate works")
		}
		host.CloneConfig().HttpClient.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
		login, err := host.Logical().Write("auth/cert/login", nil)
		if err != nil || login.Auth == nil || login.Auth.Metadata["common_name"] != "n1" {
			t.Errorf("log in with a certificate: %+v, %v", login, err)
		}
	})
}

// leaf lets a PKI engine issue a client certificate for n1.
func leaf(t *testing.T, client *api.Client) (certificate, key []byte) {
	t.Helper()
	if err := client.Sys().Mount("pki", &api.MountInput{Type: "pki"}); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string]map[string]any{
		"pki/root/generate/internal": {"common_name": "hosts", "key_type": "ec", "ttl": "24h"},
		"pki/roles/host":             {"allowed_domains": "n1", "allow_bare_domains": true, "key_type": "ec", "server_flag": false, "ttl": "1h"},
	} {
		if _, err := client.Logical().Write(path, data); err != nil {
			t.Fatal(err)
		}
	}
	issued, err := client.Logical().Write("pki/issue/host", map[string]any{"common_name": "n1"})
	if err != nil {
		t.Fatal(err)
	}
	return []byte(issued.Data["certificate"].(string)), []byte(issued.Data["private_key"].(string))
}

// TestAuditLog finds a request in the audit log, and no token.
func TestAuditLog(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		if _, err := s.Client().Logical().Read("sys/auth"); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(s.AuditLog())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(content, []byte(`"path":"sys/auth"`)) {
			t.Errorf("the audit log has no request for sys/auth:\n%s", content)
		}
		if bytes.Contains(content, []byte(s.RootToken)) {
			t.Error("the audit log has the root token")
		}
	})
}
