package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"sigs.k8s.io/yaml"
)

// blocks splits PEM into blocks of one type. A truncated block, a block of
// another type and anything but white space between and after blocks is an
// error, so that a file cut off in the middle is never half accepted.
func blocks(content []byte, kind string) ([][]byte, error) {
	var list [][]byte
	rest := bytes.TrimSpace(content)
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("is not PEM throughout")
		}
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, errors.New("has a PEM block that is cut off or garbled")
		}
		if block.Type != kind {
			return nil, fmt.Errorf("has a PEM block of type %q, want %q", block.Type, kind)
		}
		list = append(list, block.Bytes)
		rest = bytes.TrimSpace(after)
	}
	if len(list) == 0 {
		return nil, errors.New("is empty")
	}
	return list, nil
}

// parseCertificates parses a PEM file of one or more certificates.
func parseCertificates(content []byte) ([]*x509.Certificate, error) {
	ders, err := blocks(content, pemCertificate)
	if err != nil {
		return nil, err
	}
	list := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if list[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("has a certificate that cannot be parsed: %w", err)
		}
	}
	return list, nil
}

// parseBundle parses a PEM file of CA certificates.
func parseBundle(content []byte) ([]*x509.Certificate, error) {
	list, err := parseCertificates(content)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, fmt.Errorf("has a certificate (%s) that is not an authority's", c.Subject)
		}
	}
	return list, nil
}

// parseKey parses a PEM file of one private key, PKCS #8.
func parseKey(content []byte) (crypto.Signer, error) {
	ders, err := blocks(content, pemPrivateKey)
	if err != nil {
		return nil, err
	}
	if len(ders) != 1 {
		return nil, fmt.Errorf("has %d private keys, want 1", len(ders))
	}
	key, err := x509.ParsePKCS8PrivateKey(ders[0])
	if err != nil {
		// The parser's error may quote bytes of the key: say only what is wrong.
		return nil, errors.New("has a private key that cannot be parsed")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("has a private key that cannot sign")
	}
	return signer, nil
}

// parsePublics parses a PEM file of one or more public keys, PKIX.
func parsePublics(content []byte) ([]crypto.PublicKey, error) {
	ders, err := blocks(content, pemPublicKey)
	if err != nil {
		return nil, err
	}
	list := make([]crypto.PublicKey, len(ders))
	for i, der := range ders {
		if list[i], err = x509.ParsePKIXPublicKey(der); err != nil {
			return nil, fmt.Errorf("has a public key that cannot be parsed: %w", err)
		}
	}
	return list, nil
}

// encryptionConfiguration is the part of kube-apiserver's
// EncryptionConfiguration that this package writes and checks. See
// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/.
type encryptionConfiguration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Resources  []struct {
		Resources []string `json:"resources"`
		Providers []struct {
			Secretbox *struct {
				Keys []struct {
					Name   string `json:"name"`
					Secret string `json:"secret"`
				} `json:"keys"`
			} `json:"secretbox,omitempty"`
		} `json:"providers"`
	} `json:"resources"`
}

// secretboxKeyBytes is the key size of secretbox (XSalsa20 and Poly1305).
const secretboxKeyBytes = 32

// parseEncryptionKeys returns the secretbox keys of Secrets, first the one that
// encrypts. It accepts further keys and providers, which a person may have added.
func parseEncryptionKeys(content []byte) ([][]byte, error) {
	var c encryptionConfiguration
	if err := yaml.Unmarshal(content, &c); err != nil {
		// The parser's error may quote the content: say only what is wrong.
		return nil, errors.New("is not YAML of an EncryptionConfiguration")
	}
	if c.Kind != "EncryptionConfiguration" || c.APIVersion != "apiserver.config.k8s.io/v1" {
		return nil, errors.New("is not an EncryptionConfiguration of apiserver.config.k8s.io/v1")
	}
	for _, r := range c.Resources {
		if !slices.Contains(r.Resources, "secrets") {
			continue
		}
		if len(r.Providers) == 0 || r.Providers[0].Secretbox == nil || len(r.Providers[0].Secretbox.Keys) == 0 {
			return nil, errors.New("does not encrypt secrets by secretbox first")
		}
		var keys [][]byte
		for _, p := range r.Providers {
			if p.Secretbox == nil {
				continue
			}
			for _, k := range p.Secretbox.Keys {
				key, err := base64.StdEncoding.DecodeString(k.Secret)
				if err != nil || len(key) != secretboxKeyBytes {
					return nil, fmt.Errorf("has a key that is not %d bytes in base64", secretboxKeyBytes)
				}
				keys = append(keys, key)
			}
		}
		return keys, nil
	}
	return nil, errors.New("does not encrypt secrets")
}

// describe turns a certificate into the request that it fulfils.
func describe(c *x509.Certificate) Request {
	r := Request{
		CommonName: c.Subject.CommonName,
		DNSNames:   sortedNames(slices.Clone(c.DNSNames)),
		KeyType:    keyTypeOf(c.PublicKey),
		Lifetime:   c.NotAfter.Sub(c.NotBefore),
		Server:     slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth),
		Client:     slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth),
	}
	for i, o := range c.Subject.Organization {
		if i > 0 {
			r.Organization += ", "
		}
		r.Organization += o
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			r.Addresses = append(r.Addresses, a.Unmap())
		}
	}
	r.Addresses = sortedAddresses(r.Addresses)
	return r
}

// anchorKey is a public key that a chain may lead to.
type anchorKey struct {
	id     string
	public crypto.PublicKey
	// subject is the DER of the authority's name; nil where it is not known.
	subject []byte
}

// signed tells whether the anchor's key has signed the certificate. Names are
// compared first because they cost nothing.
func (a anchorKey) signed(c *x509.Certificate) bool {
	if a.subject != nil && !bytes.Equal(a.subject, c.RawIssuer) {
		return false
	}
	parent := &x509.Certificate{PublicKey: a.public}
	return parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func anchorOf(c *x509.Certificate) anchorKey {
	return anchorKey{keyID(c.PublicKey), c.PublicKey, c.RawSubject}
}

// signedBy returns the id of the anchor to which the chain (the leaf first)
// leads by its signatures, or "". Times are not looked at: a leaf that has
// ended is due, not foreign, and an authority's renewed certificate begins
// later than the leaves that its key has signed.
func signedBy(chain []*x509.Certificate, anchors []anchorKey) string {
	for i, c := range chain {
		for _, a := range anchors {
			if a.signed(c) {
				return a.id
			}
		}
		if i+1 == len(chain) || c.CheckSignatureFrom(chain[i+1]) != nil {
			return ""
		}
	}
	return ""
}
