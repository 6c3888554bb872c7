package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The issuers that a spec can name.
const (
	IssuerLocal = "local"
	IssuerVault = "vault"
)

// Issuer signs for the authorities of a cluster. Implementations may be used by
// several goroutines at once. What they do not give they refuse with a
// [Refusal] where they can say why.
type Issuer interface {
	// Sign answers the certificate for the request, PEM, the leaf first and
	// intermediates after it. csr is DER, signed by the key made on this host,
	// and asks for exactly the request's subject and names.
	Sign(ctx context.Context, r Request, csr []byte) ([]byte, error)
	// Bundle answers the PEM certificates that are trusted for a CA. The first is
	// that of the authority that signs now; a second one is there while one is
	// being changed for another.
	Bundle(ctx context.Context, ca string) ([]byte, error)
	// Secret answers a secret that all control-plane hosts share. When there is
	// none yet it becomes what fresh returns; two hosts that ask at once get
	// the same answer.
	Secret(ctx context.Context, name string, fresh func() ([]byte, error)) ([]byte, error)
}

// ephemeralLifetime is how long the certificate of group system:masters lives
// with which bindings are made. It never leaves the process's memory.
const ephemeralLifetime = 10 * time.Minute

// Ephemeral is the request for the certificate of [EphemeralClient] on a host.
func Ephemeral(host string) Request {
	return Request{
		Name: "ephemeral", CA: layout.CAK8sClient, CommonName: "nodeagent:" + host, Organization: "system:masters",
		Client: true, KeyType: "ecdsa-p256", Lifetime: ephemeralLifetime,
	}
}

// Requests are all certificates that a host may ask an issuer for: those that
// it keeps, and on a control-plane host the ephemeral one.
func Requests(spec *hosts.Spec) []Request {
	var list []Request
	for _, c := range Want(spec).Certificates {
		list = append(list, c.Request)
	}
	if spec.Has(hosts.RoleControlPlane) {
		list = append(list, Ephemeral(spec.Name))
	}
	return list
}

// EphemeralClient makes the client certificate that [Ephemeral] describes, in
// memory only. It is how nodeagent speaks as system:masters for the moment in
// which it makes the first RBAC bindings.
func EphemeralClient(ctx context.Context, issuer Issuer, host string) (tls.Certificate, error) {
	r := Ephemeral(host)
	bundle, err := issuer.Bundle(ctx, r.CA)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue ephemeral client %q: %w", r.CommonName, err)
	}
	p, err := issue(ctx, issuer, r, bundle, time.Now())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue ephemeral client %q: %w", r.CommonName, err)
	}
	return tls.X509KeyPair(p.chain, p.key)
}

// pair is a certificate with its key and bundle, all PEM.
type pair struct {
	key, chain, bundle []byte
}

// issue makes a key, has it certified and checks what came back against the
// request and the bundle.
func issue(ctx context.Context, issuer Issuer, r Request, bundle []byte, now time.Time) (pair, error) {
	key, err := newKey(r.KeyType)
	if err != nil {
		return pair{}, err
	}
	csr, err := newCSR(r, key)
	if err != nil {
		return pair{}, err
	}
	p := pair{bundle: bundle}
	if p.chain, err = issuer.Sign(ctx, r, csr); err != nil {
		return pair{}, err
	}
	if p.key, err = encodeKey(key); err != nil {
		return pair{}, err
	}
	if err := p.check(r, now); err != nil {
		return pair{}, &Refusal{
			Cause: CauseUnfit, What: fmt.Sprintf("sign %q", r.Name), Err: err,
			Remedy: "nodeagent pki check tells what the issuer's role lacks",
		}
	}
	return p, nil
}

// newCSR asks for exactly what the request names.
func newCSR(r Request, key crypto.Signer) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     r.subject(),
		DNSNames:    r.DNSNames,
		IPAddresses: r.ips(),
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return csr, nil
}

func (r Request) subject() pkix.Name {
	name := pkix.Name{CommonName: r.CommonName}
	if r.Organization != "" {
		name.Organization = []string{r.Organization}
	}
	return name
}

func (r Request) ips() []net.IP {
	var list []net.IP
	for _, a := range r.Addresses {
		list = append(list, a.AsSlice())
	}
	return list
}

func (r Request) usages() []x509.ExtKeyUsage {
	var list []x509.ExtKeyUsage
	if r.Server {
		list = append(list, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		list = append(list, x509.ExtKeyUsageClientAuth)
	}
	return list
}

// check tells whether the pair is what the request asks for: key and
// certificate belong together, the names and usages are exactly the wanted
// ones, and a peer that trusts the bundle accepts it now, for each usage.
func (p pair) check(r Request, now time.Time) error {
	key, err := parseKey(p.key)
	if err != nil {
		return fmt.Errorf("the key %w", err)
	}
	chain, err := parseCertificates(p.chain)
	if err != nil {
		return fmt.Errorf("the certificate %w", err)
	}
	leaf := chain[0]
	if !samePublic(leaf.PublicKey, key.Public()) {
		return errors.New("the certificate belongs to another key")
	}
	if leaf.IsCA {
		return errors.New("the certificate is an authority's")
	}
	if reason := mismatch(r, describe(leaf)); reason != "" {
		return errors.New("the certificate is not what was asked for: " + reason)
	}
	trusted, err := parseBundle(p.bundle)
	if err != nil {
		return fmt.Errorf("the trust bundle %w", err)
	}
	return verify(chain, trusted, r.usages(), now)
}

func verify(chain, trusted []*x509.Certificate, usages []x509.ExtKeyUsage, now time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	for _, usage := range usages {
		_, err := chain[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return err
		}
	}
	return nil
}
