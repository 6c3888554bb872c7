package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// patience bounds one question. A port that takes longer is down for this
// domain, and for the units domain's checks too.
const patience = 5 * time.Second

// Observe asks every live port of want. It changes nothing on the host; what
// it sends are a TLS handshake and, for client pairs, one request that reads.
func Observe(ctx context.Context, root layout.Root, want State) (State, error) {
	have := State{Checks: make([]Check, len(want.Checks))}
	var asking sync.WaitGroup
	for i, c := range want.Checks {
		asking.Go(func() { have.Checks[i] = ask(ctx, root, c) })
	}
	asking.Wait()
	return have, ctx.Err()
}

// ask makes one check.
func ask(ctx context.Context, root layout.Root, want Check) Check {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	have := want
	have.Serial, have.PutBack = "", false
	if want.Client {
		return askAsClient(ctx, root, have)
	}
	return askServer(ctx, root, have)
}

// askServer reads the certificate that the port shows. A server that then
// wants a certificate of the client, and gets none, has shown its own before.
func askServer(ctx context.Context, root layout.Root, c Check) Check {
	var leaf *x509.Certificate
	config := &tls.Config{
		ServerName: c.Name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, // checked below, and told apart from what is served
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf = s.PeerCertificates[0]
			if err := trusted(root, ServerCA(c.Certificate), s.PeerCertificates, c.Name); err != nil {
				c.Problem = err.Error()
			}
			return nil
		},
	}
	if own := greeter(c.Certificate); own != "" {
		// etcd logs every client that presents nothing.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			files := root.Certificate(own)
			pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			if err != nil {
				return &tls.Certificate{}, nil
			}
			return &pair, nil
		}
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", c.Address)
	if err == nil {
		conn.Close()
	}
	if leaf == nil {
		c.Down = true
		return c
	}
	c.Serial = leaf.SerialNumber.Text(16)
	return c
}

// greeter is the pair with which the port that shows a certificate is asked;
// empty for none.
func greeter(certificate string) string {
	switch certificate {
	case layout.CertEtcdServer:
		return layout.CertNodeagentEtcdClient
	case layout.CertEtcdPeer:
		return layout.CertEtcdPeer
	}
	return ""
}

// trusted checks a chain that a port showed against the bundle on disk.
func trusted(root layout.Root, ca string, chain []*x509.Certificate, name string) error {
	content, err := os.ReadFile(root.Trust(ca))
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(content)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: name})
	return err
}

// ServerCA is the authority that signs what the port with this certificate
// shows.
func ServerCA(certificate string) string {
	switch certificate {
	case layout.CertEtcdServer:
		return layout.CAEtcdServer
	case layout.CertEtcdPeer:
		return layout.CAEtcdPeer
	}
	return layout.CAK8sServer
}

// serverCAOf is the authority of the port that a client pair is tried at.
func serverCAOf(c Check) string {
	switch {
	case c.Component != layout.Etcd:
		return layout.CAK8sServer
	case c.Certificate == layout.CertEtcdPeer:
		return layout.CAEtcdPeer
	}
	return layout.CAEtcdServer
}

// askAsClient speaks with the pair. etcd refuses a pair in the handshake;
// Kubernetes' servers let it through and answer 401 to a request, while 403
// says that they know the user and would not let him.
func askAsClient(ctx context.Context, root layout.Root, c Check) Check {
	files := root.Certificate(c.Certificate)
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		c.Problem = err.Error()
		return c
	}
	return askWith(ctx, root, c, pair)
}

func askWith(ctx context.Context, root layout.Root, c Check, pair tls.Certificate) Check {
	status, err := request(ctx, root, c, pair)
	switch {
	case err == nil && status != http.StatusUnauthorized:
		c.Serial = pair.Leaf.SerialNumber.Text(16)
	case err == nil:
		c.Problem = "401 Unauthorized"
	case refusal(err) != "":
		c.Problem = refusal(err)
	default:
		c.Down = true
	}
	return c
}

// request makes one request that reads, and whose answer depends on who asks.
func request(ctx context.Context, root layout.Root, c Check, pair tls.Certificate) (int, error) {
	pool := x509.NewCertPool()
	content, err := os.ReadFile(root.Trust(serverCAOf(c)))
	if err != nil {
		return 0, err
	}
	pool.AppendCertsFromPEM(content)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{
			RootCAs: pool, ServerName: c.Name, MinVersion: tls.VersionTLS12,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		},
		DisableKeepAlives: true,
	}
	path := "/api"
	if c.Component == layout.Etcd {
		path = "/version"
	}
	if c.Component == layout.Kubelet {
		// The kubelet asks whether the user may read nodes/stats, and remembers a
		// refusal for half a minute: on a new cluster the binding is not there yet,
		// and what kubectl logs and exec need must not be what was refused.
		path = "/stats/proof"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Address+path, nil)
	if err != nil {
		return 0, err
	}
	if c.Certificate == layout.CertFrontProxyClient {
		// A front proxy is believed about its users; this one may do nothing.
		r.Header.Set("X-Remote-User", "nodeagent:proof")
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// refusal is what a server said against the pair; empty where the error is
// about something else. TLS alerts of certificates are 42 to 49 (RFC 8446,
// section 6.2), 116 asks for one.
func refusal(err error) string {
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case errors.As(err, &alert):
	case errors.As(err, &op) && op.Op == "remote error":
	default:
		return ""
	}
	text := err.Error()
	for _, word := range []string{"certificate", "unknown ca", "access denied", "handshake failure"} {
		if strings.Contains(strings.ToLower(text), word) {
			return fmt.Sprintf("refused in the handshake: %s", strings.TrimPrefix(text, "remote error: "))
		}
	}
	return ""
}
