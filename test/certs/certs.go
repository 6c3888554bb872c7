// Package certs makes the certificates that tests' servers and clients show.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate and its key.
type Pair struct {
	*x509.Certificate
	Key *ecdsa.PrivateKey
}

// CA makes a CA that is valid for a day. On loopback it is a server and a client as
// well. The edit, if there is one, changes what it says before it is signed.
func CA(t testing.TB, name string, edit func(*x509.Certificate)) Pair {
	t.Helper()
	template := about(t, name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	return sign(t, Pair{}, template, edit)
}

// Issue signs one for a server and client on loopback.
func (p Pair) Issue(t testing.TB, name string, edit func(*x509.Certificate)) Pair {
	t.Helper()
	return sign(t, p, about(t, name), edit)
}

func about(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// sign makes the key and the certificate; without a signer it signs itself.
func sign(t testing.TB, by Pair, template *x509.Certificate, edit func(*x509.Certificate)) Pair {
	t.Helper()
	if edit != nil {
		edit(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by.Key == nil {
		by = Pair{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{made, key}
}

// TLS is the pair as crypto/tls has it.
func (p Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Raw}, PrivateKey: p.Key}
}

// PEM is the certificate as files have it.
func (p Pair) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Raw})
}

// KeyPEM is the key as files have it: PKCS #8.
func (p Pair) KeyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Write writes the pair to files, whose folders are made. Without a name the key is
// not written.
func (p Pair) Write(t testing.TB, cert, key string) {
	t.Helper()
	Put(t, cert, p.PEM())
	if key != "" {
		Put(t, key, p.KeyPEM(t))
	}
}

// Put writes a file that its owner alone can read, and makes its folder.
func Put(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
