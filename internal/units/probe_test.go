package units

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/certs"
)

// authority makes a CA and a pair signed by it, as files in dir.
func authority(t *testing.T, dir string) (ca, cert, key string, pair tls.Certificate) {
	t.Helper()
	ca, cert, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	by := certs.CA(t, "ca", nil)
	by.Write(t, ca, "")
	leaf := by.Issue(t, "leaf", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"etcd.internal"}, nil })
	leaf.Write(t, cert, key)
	return ca, cert, key, leaf.TLS()
}

func TestProbeOverMutualTLS(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key, pair := authority(t, dir)
	bundle, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(bundle)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()

	good := Probe{URL: server.URL, CA: ca, Cert: cert, Key: key, ServerName: "etcd.internal"}
	if err := good.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Probe)
		want   string
	}{
		{"no client certificate", func(p *Probe) { p.Cert, p.Key = "", "" }, "certificate required"},
		{"wrong name", func(p *Probe) { p.ServerName = "other" }, "not other"},
		{"unknown CA", func(p *Probe) { p.CA = "" }, "unknown authority"},
		{"no CA file", func(p *Probe) { p.CA = dir + "/none" }, "read CA bundle of the probe"},
		{"CA file without a certificate", func(p *Probe) { p.CA = key }, "holds no certificate"},
		{"no key file", func(p *Probe) { p.Key = dir + "/none" }, "read client certificate of the probe"},
	} {
		p := good
		tc.change(&p)
		if err := p.Ask(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", tc.name, err, tc.want)
		}
	}

	// The files are read at every attempt: what pki replaces is used at once.
	content, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if good.Ask(t.Context()) == nil {
		t.Error("a broken key was not noticed")
	}
	if err := os.WriteFile(key, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := good.Ask(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProbeAnswers(t *testing.T) {
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for _, tc := range []struct{ url, want string }{
		{answer(500, "[-]etcd failed\n"), "answers 500 Internal Server Error: [-]etcd failed"},
		{answer(302, ""), "answers 302 Found"},
		{answer(204, ""), "answers 204"},
		{answer(500, strings.Repeat("x", 5000)), strings.Repeat("x", answerLength)},
		{"http://127.0.0.1:1/", "connection refused"},
		{"gopher://x", "unsupported protocol scheme"},
	} {
		err := (&Probe{URL: tc.url}).Ask(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 400 {
			t.Errorf("%s: %v, want %q", tc.url, err, tc.want)
		}
	}
	if err := (&Probe{URL: answer(200, "ok")}).Ask(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProbeGivesUpOnASilentServer(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	defer close(release)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, fmt.Errorf("no answer in time"))
	defer cancel()
	if err := (&Probe{URL: s.URL}).Ask(ctx); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("got %v", err)
	}
}
