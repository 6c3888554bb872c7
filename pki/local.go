package pki

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Local is the issuer whose authorities lie on this host, for clusters of one
// host and for trials. It signs with authorities that Apply has made; it makes
// none itself.
type Local struct {
	Root layout.Root
	// Keys opens the authorities' keys where they are encrypted; nil where they
	// are not.
	Keys *Keyring
	// Now is time.Now where nil.
	Now func() time.Time

	// step is called where a crash leaves another state on disk; see Applier.
	step func(name string)
}

var _ Issuer = (*Local)(nil)

// Sign implements Issuer. A leaf ends with its authority at the latest.
func (l *Local) Sign(ctx context.Context, r Request, csr []byte) ([]byte, error) {
	asked, err := parseCSR(r, csr)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", r.Name, err)
	}
	ca, err := loadAuthority(l.Root, r.CA)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", r.Name, err)
	}
	now := l.now()
	if !now.Before(ca.certificate.NotAfter) {
		return nil, fmt.Errorf("sign %q: authority %q ended on %s: run nodeagent apply, which renews it", r.Name, r.CA, date(ca.certificate.NotAfter))
	}
	leaf, err := leafTemplate(r, ca.certificate, now)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", r.Name, err)
	}
	key, err := ca.signer(ctx, l.Keys)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", r.Name, err)
	}
	if _, ok := asked.PublicKey.(*rsa.PublicKey); ok {
		leaf.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.certificate, asked.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", r.Name, err)
	}
	return encodeCertificate(der), nil
}

// Bundle implements Issuer: the authority's own certificate, and while it is
// being changed for another that of the one beside it.
func (l *Local) Bundle(_ context.Context, ca string) ([]byte, error) {
	a, err := loadAuthority(l.Root, ca)
	if err != nil {
		return nil, err
	}
	return a.content, nil
}

// Secret implements Issuer. The host is the only one of its cluster, so what is
// not there yet is made here.
func (l *Local) Secret(_ context.Context, _ string, fresh func() ([]byte, error)) ([]byte, error) {
	return fresh()
}

func (l *Local) now() time.Time {
	if l.Now == nil {
		return time.Now()
	}
	return l.Now()
}

// parseCSR checks the request's signature and that it asks for exactly the
// subject, the names and the key type of r.
func parseCSR(r Request, der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse signing request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check signature of signing request: %w", err)
	}
	asked := describe(&x509.Certificate{
		Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, PublicKey: csr.PublicKey,
		ExtKeyUsage: r.usages(),
	})
	if reason := mismatch(r, asked); reason != "" {
		return nil, fmt.Errorf("the signing request asks for something else: %s", reason)
	}
	if len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return nil, fmt.Errorf("the signing request asks for e-mail addresses or URIs, which no certificate here has")
	}
	return csr, nil
}

// CheckCSR checks a signing request (DER) as every issuer does before it signs:
// its signature, and that it asks for exactly the subject, the names and the key
// type of r.
func CheckCSR(r Request, der []byte) error {
	_, err := parseCSR(r, der)
	return err
}

// leafTemplate is what is signed: the request's own values, never those of the
// signing request.
func leafTemplate(r Request, ca *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	end := now.Add(r.Lifetime)
	if ca.NotAfter.Before(end) {
		end = ca.NotAfter
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               r.subject(),
		DNSNames:              slices.Clone(r.DNSNames),
		IPAddresses:           r.ips(),
		NotBefore:             now.Add(-Backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           r.usages(),
		BasicConstraintsValid: true,
	}, nil
}

// newSerial returns 128 random bits, never 0.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	for {
		serial, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return nil, fmt.Errorf("make serial number: %w", err)
		}
		if serial.Sign() > 0 {
			return serial, nil
		}
	}
}
