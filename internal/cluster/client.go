package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// ErrUnreachable marks errors of an API server that could not be asked at all:
// it doesn't run, or there is no certificate yet to speak to it with.
var ErrUnreachable = errors.New("API server cannot be reached")

// requestTimeout bounds one request.
const requestTimeout = 15 * time.Second

// A Certificate gives the client certificate for a connection. It is called
// once for each TLS handshake.
type Certificate func(context.Context) (tls.Certificate, error)

// Files returns the certificate that the files hold at the time of each
// handshake, so that a rotated one is used at once.
func Files(files layout.CertificateFiles) Certificate {
	return func(context.Context) (tls.Certificate, error) {
		return tls.LoadX509KeyPair(files.Cert, files.Key)
	}
}

// Client speaks to one API server. Close it: idle connections are kept.
type Client struct {
	server string
	http   *http.Client
	api    dynamic.Interface
}

// LocalServer is the URL of the host's own API server.
func LocalServer(spec *hosts.Spec) string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.Kubernetes.APIPort))
}

// Connect returns a client for the API server at the URL, whose certificate is
// checked against the PEM bundle in caFile. No connection is made yet. The
// error wraps ErrUnreachable when the bundle is not there.
func Connect(server, caFile string, certificate Certificate) (*Client, error) {
	roots, err := readBundle(caFile)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	transport := &http.Transport{
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: requestTimeout,
		DialContext:         (&net.Dialer{Timeout: requestTimeout}).DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    roots,
			GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := certificate(info.Context())
				if err != nil {
					return nil, fmt.Errorf("load client certificate: %w", err)
				}
				return &pair, nil
			},
		},
	}
	client := &http.Client{Transport: transport, Timeout: requestTimeout}
	// QPS below 0 switches off client-go's own rate limit, which is for
	// controllers and would slow a handful of requests down.
	api, err := dynamic.NewForConfigAndClient(&rest.Config{Host: server, QPS: -1, UserAgent: "nodeagent"}, client)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	return &Client{server: server, http: client, api: api}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func readBundle(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: read CA bundle: %w", ErrUnreachable, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA bundle %q: no certificate in it", file)
	}
	return roots, nil
}

// WaitReady asks /readyz until it answers 200 or ctx is done. Ready includes
// that the server has made its own roles and bindings.
func (c *Client) WaitReady(ctx context.Context) error {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		last := c.ready(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to be ready: %w; last: %w", c.server, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// ready asks once; the error names the checks that failed.
func (c *Client) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("%s: %s", response.Status, failedChecks(string(body)))
}

// failedChecks keeps the lines of a /readyz answer that begin with "[-]", or
// all of it where there is none.
func failedChecks(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]"); ok {
			failed = append(failed, name)
		}
	}
	if failed == nil {
		return strings.TrimSpace(body)
	}
	return strings.Join(failed, ", ")
}

// reach adds ErrUnreachable to the errors of a server that isn't there or
// cannot do its work at the moment; an answer that refuses stays as it is.
func reach(ctx context.Context, err error) error {
	var answer apierrors.APIStatus
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case !errors.As(err, &answer),
		apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err), apierrors.IsTooManyRequests(err),
		apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

var (
	bindings = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
	nodes    = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

	accessReviews = schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"}
)
