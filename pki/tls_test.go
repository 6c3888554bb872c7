package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// signFor signs whatever it is asked for.
func signFor(l *Local, r Request, public crypto.PublicKey) ([]byte, error) {
	ca, err := loadAuthority(l.Root, r.CA)
	if err != nil {
		return nil, err
	}
	leaf, err := leafTemplate(r, ca.certificate, l.now())
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.certificate, public, ca.key)
	return encodeCertificate(der), err
}

// handshake connects a client to a server over loopback, both with TLS 1.3 and
// both checked, as the components do. Either side's refusal is returned.
func handshake(server, client *tls.Config) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return err
			}
			s := tls.Server(conn, server)
			if err := s.Handshake(); err != nil {
				return fmt.Errorf("server: %w", err)
			}
			_, err = s.Write([]byte("x"))
			return err
		}()
	}()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", listener.Addr().String(), client)
	if err != nil {
		return errors.Join(fmt.Errorf("client: %w", err), <-served)
	}
	defer conn.Close()
	// In TLS 1.3 a refused client learns of it at its first read.
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return errors.Join(fmt.Errorf("client: %w", err), <-served)
	}
	return <-served
}

func (h *host) keyPair(name string) tls.Certificate {
	h.t.Helper()
	at := h.root.Certificate(name)
	p, err := tls.LoadX509KeyPair(at.Cert, at.Key)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *host) pool(ca string) *x509.CertPool {
	h.t.Helper()
	pool := x509.NewCertPool()
	content, err := os.ReadFile(h.root.Trust(ca))
	if err != nil || !pool.AppendCertsFromPEM(content) {
		h.t.Fatalf("no certificate in the trust bundle %s: %v", ca, err)
	}
	return pool
}

func TestHandshakes(t *testing.T) {
	h := newHost(t, mercury())
	h.now = time.Now() // TLS has no clock of ours
	h.converge()
	const ok = ""
	for _, tc := range []struct {
		server, clientCA string // the server's certificate, and the authority of its clients
		client, serverCA string
		as               string // the name under which the server is reached
		says             string
	}{
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertAPIServerEtcdClient, layout.CAEtcdServer, "192.0.2.10", ok},
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertNodeagentEtcdClient, layout.CAEtcdServer, "127.0.0.1", ok},
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertNodeagentEtcdClient, layout.CAEtcdServer, "::1", ok},
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertEtcdServer, layout.CAEtcdServer, "localhost", ok},
		{layout.CertEtcdPeer, layout.CAEtcdPeer, layout.CertEtcdPeer, layout.CAEtcdPeer, "mercury", ok},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertKubeletClient, layout.CAK8sServer, "api.mercury.example", ok},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertControllerManagerClient, layout.CAK8sServer, "127.0.0.1", ok},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertSchedulerClient, layout.CAK8sServer, "kubernetes.default.svc.cluster.local", ok},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertKubeProxy, layout.CAK8sServer, "10.96.0.1", ok},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sServer, "203.0.113.7", ok},
		{layout.CertAPIServer, layout.CAFrontProxy, layout.CertFrontProxyClient, layout.CAK8sServer, "k8s.example.org", ok},
		{layout.CertKubeletServer, layout.CAK8sClient, layout.CertAPIServerKubeletClient, layout.CAK8sServer, "192.0.2.10", ok},
		{layout.CertControllerManagerServer, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sServer, "localhost", ok},
		{layout.CertSchedulerServer, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sServer, "127.0.0.1", ok},

		// A key stolen from one trust domain does not speak for another.
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertAdmin, layout.CAEtcdServer, "localhost", "unknown authority"},
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertKubeletClient, layout.CAEtcdServer, "localhost", "unknown authority"},
		{layout.CertEtcdServer, layout.CAEtcdServer, layout.CertEtcdPeer, layout.CAEtcdServer, "localhost", "unknown authority"},
		{layout.CertEtcdPeer, layout.CAEtcdPeer, layout.CertAPIServerEtcdClient, layout.CAEtcdPeer, "mercury", "unknown authority"},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertFrontProxyClient, layout.CAK8sServer, "localhost", "unknown authority"},
		{layout.CertAPIServer, layout.CAFrontProxy, layout.CertAdmin, layout.CAK8sServer, "localhost", "unknown authority"},
		{layout.CertAPIServer, layout.CAK8sClient, layout.CertKubeletServer, layout.CAK8sServer, "localhost", "unknown authority"},
		// A client does not serve, and a server does not call.
		{layout.CertKubeProxy, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sClient, "mercury", "not valid"},
		{layout.CertNodeagentEtcdClient, layout.CAEtcdServer, layout.CertNodeagentEtcdClient, layout.CAEtcdServer, "localhost", "not valid"},
		{layout.CertAPIServer, layout.CAK8sServer, layout.CertKubeletServer, layout.CAK8sServer, "localhost", "incompatible key usage"},
		// A server is who it says it is.
		{layout.CertKubeletServer, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sServer, "10.96.0.1", "valid for"},
		{layout.CertSchedulerServer, layout.CAK8sClient, layout.CertAdmin, layout.CAK8sServer, "mercury", "valid for"},
	} {
		t.Run(fmt.Sprintf("%s to %s as %s", tc.client, tc.server, tc.as), func(t *testing.T) {
			h.t = t
			err := handshake(
				&tls.Config{
					Certificates: []tls.Certificate{h.keyPair(tc.server)}, ClientCAs: h.pool(tc.clientCA),
					ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
				},
				&tls.Config{
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
						p := h.keyPair(tc.client)
						return &p, nil
					},
					RootCAs: h.pool(tc.serverCA), ServerName: tc.as, MinVersion: tls.VersionTLS13,
				})
			switch {
			case tc.says == ok && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != ok && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("error %v, want one with %q", err, tc.says)
			}
		})
	}
}

func TestKeyTypes(t *testing.T) {
	for _, keyType := range []string{"ecdsa-p384", "rsa-2048"} {
		t.Run(keyType, func(t *testing.T) {
			s := spec("n1", "192.0.2.1", "worker")
			s.PKI.KeyType = keyType
			h := newHost(t, s)
			h.now = time.Now()
			h.converge()
			err := handshake(
				&tls.Config{Certificates: []tls.Certificate{h.keyPair(layout.CertKubeletServer)}, ClientCAs: h.pool(layout.CAK8sClient), ClientAuth: tls.RequireAndVerifyClientCert},
				&tls.Config{Certificates: []tls.Certificate{h.keyPair(layout.CertKubeProxy)}, RootCAs: h.pool(layout.CAK8sServer), ServerName: "n1"})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEphemeralClient(t *testing.T) {
	h := newHost(t, mercury())
	h.now = time.Now()
	h.converge()
	before := tree(t, string(h.root))
	c, err := EphemeralClient(context.Background(), &Local{Root: h.root}, "a")
	if err != nil {
		t.Fatal(err)
	}
	if tree(t, string(h.root)) != before {
		t.Error("something was written")
	}
	if left := time.Until(c.Leaf.NotAfter); left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("it lives for %s, want 10 minutes", left)
	}
	if got := describe(c.Leaf); got.Organization != "system:masters" || got.CommonName != "nodeagent:a" || got.Server || len(allNames(got)) > 0 {
		t.Errorf("issued %+v", got)
	}
	err = handshake(
		&tls.Config{Certificates: []tls.Certificate{h.keyPair(layout.CertAPIServer)}, ClientCAs: h.pool(layout.CAK8sClient), ClientAuth: tls.RequireAndVerifyClientCert},
		&tls.Config{Certificates: []tls.Certificate{c}, RootCAs: h.pool(layout.CAK8sServer), ServerName: "localhost"})
	if err != nil {
		t.Error(err)
	}
}
