package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/pki"
)

// Bundle implements pki.Issuer: the certificates of all issuers of the CA's
// engine, fetched without a token: the default one, which signs, and then the
// others, the youngest first. While a CA is being changed these are the old one
// and the new one.
//
// A root that is in the engine only as what stands above an intermediate is
// left out: it may have signed the intermediates of other authorities, and then
// whoever holds the key of one could speak for all.
func (i *Issuer) Bundle(ctx context.Context, ca string) ([]byte, error) {
	a := i.asked(fmt.Sprintf("fetch trust bundle %q", ca), ca)
	var content []byte
	err := i.doPublic(ctx, a, func(ctx context.Context, c *conn) error {
		list, err := issuers(ctx, c, a.engine)
		if err == nil {
			content, err = encodeBundle(list)
		}
		return err
	})
	return content, err
}

// issuers reads the certificates of an engine's issuers.
func issuers(ctx context.Context, c *conn, engine string) ([]*x509.Certificate, error) {
	answer, err := c.list(ctx, engine+"/issuers")
	if err != nil {
		return nil, noIssuer(err)
	}
	var list []*x509.Certificate
	ids, _ := answer.Data["keys"].([]any)
	for _, id := range ids {
		ca, err := issuer(ctx, c, engine, fmt.Sprint(id))
		if status(err) == http.StatusNotFound {
			continue // deleted since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, ca)
	}
	slices.SortFunc(list, func(a, b *x509.Certificate) int {
		return cmp.Or(b.NotBefore.Compare(a.NotBefore), bytes.Compare(a.Raw, b.Raw))
	})
	if len(list) < 2 {
		return list, nil
	}
	signs, err := issuer(ctx, c, engine, "default")
	if err != nil && status(err) == 0 {
		return nil, err
	}
	if err == nil { // else none is the default, and nothing is signed
		list = append([]*x509.Certificate{signs}, slices.DeleteFunc(list, signs.Equal)...)
	}
	return list, nil
}

// issuer reads the certificate of one issuer by its id or name.
func issuer(ctx context.Context, c *conn, engine, id string) (*x509.Certificate, error) {
	answer, err := c.read(ctx, fmt.Sprintf("%s/issuer/%s/json", engine, id))
	if err != nil {
		return nil, err
	}
	content, err := text(answer, "certificate")
	if err != nil {
		return nil, err
	}
	return parseCA(content)
}

// noIssuer says in words what Vault says by an empty answer of status 404: the
// engine is there and has no issuer.
func noIssuer(err error) error {
	var answer *api.ResponseError
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound && len(answer.Errors) == 0 {
		worded := *answer
		worded.Errors = []string{"there is no issuer"}
		return &worded
	}
	return err
}

// encodeBundle is the PEM form of the anchors among the certificates, in their
// order.
func encodeBundle(all []*x509.Certificate) ([]byte, error) {
	var anchors []*x509.Certificate
	for _, c := range all {
		if !onlyAbove(c, all) {
			anchors = append(anchors, c)
		}
	}
	if len(anchors) == 0 {
		return nil, noIssuer(&api.ResponseError{StatusCode: http.StatusNotFound})
	}
	var content []byte
	for _, c := range anchors {
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return content, nil
}

// onlyAbove tells whether a root has signed another authority among all whose
// key has no root certificate of its own. One that has is the successor of the
// root, which the root has signed, too, so that those who know the old one only
// accept it.
func onlyAbove(root *x509.Certificate, all []*x509.Certificate) bool {
	if !selfSigned(root) {
		return false
	}
	return slices.ContainsFunc(all, func(c *x509.Certificate) bool {
		if selfSigned(c) || c.CheckSignatureFrom(root) != nil {
			return false
		}
		return !slices.ContainsFunc(all, func(o *x509.Certificate) bool {
			return selfSigned(o) && bytes.Equal(o.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
		})
	})
}

// parseCA parses one certificate of an authority.
func parseCA(content string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(content))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the answer has something else than a certificate for an authority's")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse an authority's certificate: %w", err)
	}
	return ca, nil
}

// selfSigned tells whether the certificate is signed by its own key.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// join puts PEM blocks one after another, a line end after each.
func join(list []string) []byte {
	var b strings.Builder
	for _, block := range list {
		b.WriteString(strings.TrimSpace(block))
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// Vouched are the key ids in Vault's bundles of the CAs that the local issuer has
// left on a host, by CA; see [pki.Forget].
func (i *Issuer) Vouched(ctx context.Context, left []pki.LeftAuthority) (map[string][]string, error) {
	vouched := map[string][]string{}
	for _, l := range left {
		content, err := i.Bundle(ctx, l.Name)
		if err != nil {
			return nil, err
		}
		list, err := parseChain(string(content))
		if err != nil {
			return nil, fmt.Errorf("trust bundle %q %w", l.Name, err)
		}
		for _, c := range list {
			vouched[l.Name] = append(vouched[l.Name], pki.KeyID(c))
		}
	}
	return vouched, nil
}
