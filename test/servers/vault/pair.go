package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// servingPair is the pair that was given, or one that the folder's own CA
// signs anew at every start, whose certificate lies in caFile. The CA stays as
// long as the folder, so who trusts it needs nothing new after a restart.
func servingPair(o options, now time.Time) (pair tls.Certificate, caFile string, err error) {
	if o.tlsCert != "" {
		pair, err = tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return pair, "", fmt.Errorf("load TLS pair: %w", err)
		}
		return pair, "", nil
	}
	ca, caFile, err := ownCA(filepath.Join(o.dir, "tls"), now)
	if err != nil {
		return pair, "", fmt.Errorf("make CA: %w", err)
	}
	pair, err = sign(ca, names(o.listen, o.san), now)
	if err != nil {
		return pair, "", fmt.Errorf("make server certificate: %w", err)
	}
	return pair, caFile, nil
}

// names are those that every certificate has, the address that is listened
// on, if it is one, and the extra ones.
func names(listen string, extra []string) []string {
	all := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(listen); err == nil {
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			all = append(all, host)
		}
	}
	return append(all, extra...)
}

// ownCA finds the folder's CA or makes it.
func ownCA(dir string, now time.Time) (ca tls.Certificate, caFile string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ca, "", err
	}
	caFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	ca, err = tls.LoadX509KeyPair(caFile, keyFile)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ca, caFile, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ca, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "Vault for tests: CA of its listener"},
		NotBefore:    now.AddDate(0, 0, -1), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return ca, "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return ca, "", err
	}
	// The certificate last: without it, the next start makes both anew.
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return ca, "", err
	}
	if err := writeFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return ca, "", err
	}
	ca, err = tls.LoadX509KeyPair(caFile, keyFile)
	return ca, caFile, err
}

// sign makes a key and a server certificate for the names, in memory alone.
func sign(ca tls.Certificate, names []string, now time.Time) (pair tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "Vault for tests"},
		NotBefore:    now.AddDate(0, 0, -1), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return pair, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: crypto.Signer(key)}, nil
}
