package vault

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// loginAuthority is the authority whose certificates cert auth trusts.
const loginAuthority = layout.CANodeagent

// initialIssuer is the name of an authority's first issuer. Vault has no two
// of one name, so that two who make an authority at once make one.
const initialIssuer = "initial"

// Authority is one CA, in an engine of its own.
type Authority struct {
	// Name is one of the layout.CA… constants, Engine its path.
	Name, Engine string
	// Cluster is the organisation in its subject, Lifetime that of its
	// certificate, Leaf the longest lifetime of what it signs; wanted only.
	Cluster        string
	Lifetime, Leaf time.Duration
	// Offline tells that its certificate is signed by a root that is not in
	// this Vault, and Signed is that certificate, PEM, with the chain up to the
	// root behind it, where it is to be imported; wanted only.
	Offline bool
	Signed  string
	// Adopted is the authority of a local issuer that it is to go on as; nil for
	// one of its own; wanted only.
	Adopted *pki.HeldAuthority

	// The rest is observed only.
	Condition Condition
	// Default is the id of the issuer that signs.
	Default string
	Issuers []IssuerCertificate
	// Follows tells that whatever issuer comes next becomes the default at once.
	Follows bool
}

// Condition is how an authority is.
type Condition int

// The conditions; a wanted authority has the zero value.
const (
	Absent  Condition = iota // no key and no certificate
	Waiting                  // a key whose certificate is signed elsewhere
	Signing                  // it can sign
	Keyless                  // its certificate's key is not in Vault
)

// IssuerCertificate is one certificate of an authority.
type IssuerCertificate struct {
	ID, Name string
	// Key is the id of its key, empty where Vault has none.
	Key         string
	Certificate *x509.Certificate
	// Ends is what becomes of a leaf that would outlive it: "err", "truncate"
	// or "permit".
	Ends string
}

// signer is the certificate that signs, nil where none does.
func (a Authority) signer() *IssuerCertificate {
	for i := range a.Issuers {
		if a.Issuers[i].ID == a.Default {
			return &a.Issuers[i]
		}
	}
	return nil
}

// bundle is the certificates that what it signs is checked against, PEM, less
// those of a key. A root that only stands above is not among them, as
// [Issuer.Bundle] says.
func (a Authority) bundle(less ...string) string {
	var all []*x509.Certificate
	for _, i := range a.Issuers {
		if !slices.Contains(less, pki.KeyID(i.Certificate)) {
			all = append(all, i.Certificate)
		}
	}
	content, err := encodeBundle(all)
	if err != nil {
		return "" // there is none
	}
	return string(content)
}

// holds tells whether the authority has a key, with its certificate.
func (a Authority) holds(keyID string) bool {
	return slices.ContainsFunc(a.Issuers, func(i IssuerCertificate) bool { return i.Key != "" && pki.KeyID(i.Certificate) == keyID })
}

func (s State) authority(name string) *Authority {
	for i := range s.Authorities {
		if s.Authorities[i].Name == name {
			return &s.Authorities[i]
		}
	}
	return nil
}

// fingerprint is the digest of a bundle that is the same in whatever order and
// with whatever line breaks the certificates stand.
func fingerprint(bundle string) string {
	var all [][]byte
	rest := []byte(bundle)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		all = append(all, block.Bytes)
	}
	slices.SortFunc(all, slices.Compare)
	hash := sha256.New()
	for _, der := range all {
		hash.Write(der)
	}
	return fmt.Sprintf("%d of the authority %s, sha256:%s", len(all), loginAuthority, hex.EncodeToString(hash.Sum(nil)[:6]))
}

// readAuthority observes an authority whose engine is there.
func readAuthority(ctx context.Context, client *api.Client, name, engine string) (Authority, error) {
	a := Authority{Name: name, Engine: engine}
	ids, err := listKeys(ctx, client, engine+"/issuers")
	if err != nil {
		return a, err
	}
	if len(ids) == 0 {
		keys, err := listKeys(ctx, client, engine+"/keys")
		if len(keys) > 0 {
			a.Condition = Waiting
		}
		return a, err
	}
	config, err := read(ctx, client, engine+"/config/issuers")
	if err != nil {
		return a, err
	}
	a.Default, _ = config["default"].(string)
	a.Follows, _ = config["default_follows_latest_issuer"].(bool)
	for _, id := range ids {
		issuer, err := readIssuer(ctx, client, engine+"/issuer/"+id)
		if err != nil {
			return a, err
		}
		a.Issuers = append(a.Issuers, issuer)
	}
	slices.SortFunc(a.Issuers, func(x, y IssuerCertificate) int {
		return cmp.Or(x.Certificate.NotBefore.Compare(y.Certificate.NotBefore), cmp.Compare(x.ID, y.ID))
	})
	a.Condition = Keyless
	if s := a.signer(); s != nil && s.Key != "" {
		a.Condition = Signing
	}
	return a, nil
}

func readIssuer(ctx context.Context, client *api.Client, path string) (IssuerCertificate, error) {
	data, err := read(ctx, client, path)
	if err != nil {
		return IssuerCertificate{}, err
	}
	text := func(name string) string { s, _ := data[name].(string); return s }
	list, err := parseChain(text("certificate"))
	if err != nil {
		return IssuerCertificate{}, fmt.Errorf("read %s: its certificate %w", path, err)
	}
	return IssuerCertificate{
		ID: text("issuer_id"), Name: text("issuer_name"), Key: text("key_id"),
		Certificate: list[0], Ends: text("leaf_not_after_behavior"),
	}, nil
}

// parseChain parses PEM certificates, at least one.
func parseChain(text string) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a block %q beside certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot be parsed: %w", err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("is not PEM")
	}
	return list, nil
}

// makeRoot makes an authority whose root is in Vault.
func makeRoot(ctx context.Context, client *api.Client, a Authority) error {
	return write(ctx, client, a.Engine+"/root/generate/internal", a.request(map[string]any{
		"ttl": seconds(a.Lifetime), "issuer_name": initialIssuer, "max_path_length": 0,
		"not_before_duration": seconds(pki.Backdate),
	}))
}

// request is the subject and key of an authority, and what more is given.
func (a Authority) request(more map[string]any) map[string]any {
	data := map[string]any{
		"common_name": a.Name, "organization": a.Cluster, "exclude_cn_from_sans": true,
		"key_type": "ec", "key_bits": 256, "key_name": initialIssuer,
	}
	for name, value := range more {
		data[name] = value
	}
	return data
}

// makeKey makes the key of an authority that is signed elsewhere.
func makeKey(ctx context.Context, client *api.Client, a Authority) error {
	return write(ctx, client, a.Engine+"/intermediate/generate/internal", a.request(nil))
}

// SigningRequest answers the request, PEM, that an offline root signs for an
// authority that waits for its certificate. Asked again, it is made anew for
// the same key.
func SigningRequest(ctx context.Context, client *api.Client, a Authority) ([]byte, error) {
	keys, err := listKeys(ctx, client, a.Engine+"/keys")
	if err == nil && len(keys) != 1 {
		err = fmt.Errorf("the engine has %d keys, want 1", len(keys))
	}
	if err != nil {
		return nil, fmt.Errorf("request a certificate for authority %q: %w", a.Name, err)
	}
	data := a.request(map[string]any{"key_ref": keys[0]})
	for _, name := range []string{"key_type", "key_bits", "key_name"} { // the key is there
		delete(data, name)
	}
	secret, err := client.Logical().WriteWithContext(ctx, a.Engine+"/intermediate/generate/existing", data)
	if err != nil {
		return nil, fmt.Errorf("request a certificate for authority %q: %w", a.Name, plain(err))
	}
	request, err := csrIn(secret)
	if err != nil {
		return nil, fmt.Errorf("request a certificate for authority %q: %w", a.Name, err)
	}
	return request, nil
}

func csrIn(secret *api.Secret) ([]byte, error) {
	if secret != nil {
		if csr, _ := secret.Data["csr"].(string); csr != "" {
			return []byte(strings.TrimSpace(csr) + "\n"), nil
		}
	}
	return nil, errors.New("no request was answered")
}

// CheckSigned tells whether a chain, PEM, is what an offline root was asked
// for: a CA's certificate for the request's key that lives longer than what it
// is to sign, and behind it the certificates that it leads to.
func CheckSigned(chain string, request []byte, leaf time.Duration, now time.Time) error {
	list, err := parseChain(chain)
	if err != nil {
		return fmt.Errorf("the file %w", err)
	}
	block, _ := pem.Decode(request)
	if block == nil {
		return errors.New("the request that was answered is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("parse Vault's request: %w", err)
	}
	c := list[0]
	switch public, ok := csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); {
	case !ok || !public.Equal(c.PublicKey):
		return errors.New("its first certificate belongs to another key than the request: sign the request that --csr wrote")
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its first certificate is no authority's: sign it with CA:TRUE and keyCertSign")
	case now.Before(c.NotBefore) || c.NotAfter.Before(now.Add(leaf)):
		return fmt.Errorf("its first certificate is valid from %s to %s, which does not hold a leaf of %s", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), leaf)
	}
	for i, parent := range list[1:] {
		if err := list[i].CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("certificate %d is not signed by certificate %d: %w", i+1, i+2, err)
		}
	}
	return nil
}

// importSigned gives an authority that waits its certificate.
func importSigned(ctx context.Context, client *api.Client, a Authority, now time.Time) error {
	request, err := SigningRequest(ctx, client, a)
	if err != nil {
		return err
	}
	if err := CheckSigned(a.Signed, request, a.Leaf, now); err != nil {
		return err
	}
	return write(ctx, client, a.Engine+"/intermediate/set-signed", map[string]any{"certificate": a.Signed})
}
