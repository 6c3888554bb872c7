package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
)

// requestTimeout bounds one request to Vault. Signing takes it milliseconds;
// an RSA key or a busy storage a few hundred of them.
const requestTimeout = 10 * time.Second

// conn is a host's way to Vault: connections of its own, with the client
// certificate that they present. It takes nothing from the environment but the
// proxy, and never tries a request again by itself; see [patience].
type conn struct {
	client    *api.Client
	transport *http.Transport
}

// dial opens a way to Vault that presents pair, or no certificate where it is
// nil. No packet is sent before the first request.
func dial(spec *hosts.Vault, pair *tls.Certificate) (*conn, error) {
	trusted, err := trustedBy(spec)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: requestTimeout,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trusted},
	}
	if pair != nil {
		// Vault names no CAs in its request for a certificate that a host's
		// would be among, so the choice is not left to the TLS library.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return pair, nil
		}
	}
	client, err := api.NewClient(&api.Config{
		Address: spec.Address,
		Timeout: requestTimeout,
		HttpClient: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // the library follows the one to the active server itself
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("make client of Vault at %s: %w", spec.Address, err)
	}
	// What NewClient took from VAULT_TOKEN, VAULT_NAMESPACE and VAULT_HEADERS.
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return &conn{client, transport}, nil
}

// trustedBy is who may speak for Vault: nil, which means the system's CAs,
// where the spec names no file.
func trustedBy(spec *hosts.Vault) (*x509.CertPool, error) {
	if spec.CAFile == "" {
		return nil, nil
	}
	content, err := os.ReadFile(spec.CAFile)
	if err != nil {
		return nil, &caFileError{spec.CAFile, err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, &caFileError{spec.CAFile, errors.New("it holds no PEM certificate")}
	}
	return pool, nil
}

// caFileError is about the file of pki.vault.ca_file.
type caFileError struct {
	path string
	err  error
}

func (e *caFileError) Error() string { return fmt.Sprintf("read Vault's CA %q: %v", e.path, e.err) }
func (e *caFileError) Unwrap() error { return e.err }

func (c *conn) close() { c.transport.CloseIdleConnections() }

// read reads a path. What is not there, an entry or a whole engine, is an
// *api.ResponseError of status 404.
func (c *conn) read(ctx context.Context, path string) (*api.Secret, error) {
	return c.parse(c.client.Logical().ReadRawWithContext(ctx, path))
}

// readVersion reads a version of an entry of a KV engine, newest for the last.
func (c *conn) readVersion(ctx context.Context, path string, version int) (*api.Secret, error) {
	if version == newest {
		return c.read(ctx, path)
	}
	return c.parse(c.client.Logical().ReadRawWithDataWithContext(ctx, path, map[string][]string{"version": {strconv.Itoa(version)}}))
}

// list reads a folder, with errors as read has them.
func (c *conn) list(ctx context.Context, path string) (*api.Secret, error) {
	return c.parse(c.client.Logical().ReadRawWithDataWithContext(ctx, path, map[string][]string{"list": {"true"}}))
}

func (c *conn) parse(answer *api.Response, err error) (*api.Secret, error) {
	if answer != nil {
		defer answer.Body.Close()
	}
	if status(err) == http.StatusNotFound && answer != nil {
		// Of a KV entry that was deleted Vault answers what it still knows.
		if secret, parsed := api.ParseSecret(answer.Body); parsed == nil && secret != nil && len(secret.Data) > 0 {
			return secret, nil
		}
	}
	if err != nil {
		return nil, err
	}
	secret, err := api.ParseSecret(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("parse answer: %w", err)
	}
	if secret == nil {
		secret = &api.Secret{}
	}
	return secret, nil
}

// write sends data to a path. The answer is never nil without an error.
func (c *conn) write(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	secret, err := c.client.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return nil, err
	}
	if secret == nil {
		secret = &api.Secret{}
	}
	return secret, nil
}

// text is a field of an answer that must be a string.
func text(s *api.Secret, field string) (string, error) {
	value, ok := s.Data[field].(string)
	if !ok || value == "" {
		return "", fmt.Errorf("the answer has no field %q", field)
	}
	return value, nil
}
