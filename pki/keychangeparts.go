package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// part is one of the keys that a secret is made of. A secret's parts are in the
// order of their use: the first one signs, or encrypts; the others verify, or
// decrypt.
type part struct {
	// ID is what the part is known by: the digest of a public key, the
	// fingerprint of an encryption key.
	id string
	// name is how etcd's values name an encryption key; empty for the others.
	name string
	// secret is a key of secretbox in base64, or a PEM block.
	secret string
	// public is the public half; nil for an encryption key.
	public crypto.PublicKey
	// private tells that the private half is there.
	private bool
}

// parseParts takes the content of a secret apart.
func parseParts(name string, content []byte) ([]part, error) {
	if name == KeyEncryption {
		return parseSecretbox(content)
	}
	return parseSigners(content)
}

// joinParts is the content of a secret with these parts.
func joinParts(name string, parts []part) []byte {
	if name == KeyEncryption {
		return renderEncryption(parts)
	}
	var b bytes.Buffer
	for _, p := range parts {
		b.WriteString(p.secret)
	}
	return b.Bytes()
}

// freshPart makes a part with a new random key.
func freshPart(name string) (part, error) {
	content, err := freshServiceAccount()
	if name == KeyEncryption {
		content, err = freshEncryption()
	}
	if err != nil {
		return part{}, err
	}
	parts, err := parseParts(name, content)
	if err != nil {
		return part{}, err
	}
	p := parts[0]
	if name == KeyEncryption {
		// Values in etcd and in snapshots name their key: a name is never used
		// for a second one.
		p.name = "key-" + strings.TrimPrefix(p.id, "sha256:")
	}
	return p, nil
}

// parseSigners takes PEM of private keys and public keys apart; the first one
// must be private.
func parseSigners(content []byte) ([]part, error) {
	var parts []part
	for rest := bytes.TrimSpace(content); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		if block == nil || !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, errors.New("is not PEM throughout")
		}
		p := part{secret: string(pem.EncodeToMemory(block)), private: block.Type == pemPrivateKey}
		if p.private {
			key, err := parseKey([]byte(p.secret))
			if err != nil {
				return nil, err
			}
			p.public = key.Public()
		} else {
			list, err := parsePublics([]byte(p.secret))
			if err != nil {
				return nil, err
			}
			p.public = list[0]
		}
		p.id = keyID(p.public)
		if !slices.ContainsFunc(parts, func(q part) bool { return q.id == p.id }) {
			parts = append(parts, p)
		}
		rest = after
	}
	if len(parts) == 0 || !parts[0].private {
		return nil, errors.New("does not begin with a private key")
	}
	return parts, nil
}

// publics is the PEM bundle of the parts' public halves, in their order.
func publics(parts []part) ([]byte, error) {
	var b bytes.Buffer
	for _, p := range parts {
		der, err := x509.MarshalPKIXPublicKey(p.public)
		if err != nil {
			return nil, fmt.Errorf("encode public key: %w", err)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemPublicKey, Bytes: der}))
	}
	return b.Bytes(), nil
}

// parseSecretbox takes an encryption configuration apart, if it is one that
// this package has written: what a person has added to it would be lost when it
// is written again.
func parseSecretbox(content []byte) ([]part, error) {
	parts, err := secretboxKeys(content)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(renderEncryption(parts), content) {
		return nil, errors.New("was changed by a person, and nodeagent would lose that change when it writes the keys: make it as nodeagent writes it, for secrets alone, with one provider secretbox and identity behind it")
	}
	return parts, nil
}

// secretboxKeys are the keys of any encryption configuration.
func secretboxKeys(content []byte) ([]part, error) {
	keys, err := parseEncryptionKeys(content)
	if err != nil {
		return nil, err
	}
	var c encryptionConfiguration
	if err := yaml.Unmarshal(content, &c); err != nil {
		return nil, errors.New("is not YAML of an EncryptionConfiguration")
	}
	var parts []part
	for _, r := range c.Resources {
		for _, p := range r.Providers {
			if p.Secretbox == nil {
				continue
			}
			for _, k := range p.Secretbox.Keys {
				p := part{name: k.Name, secret: k.Secret}
				// Those of other resources may be the same ones again.
				at := slices.IndexFunc(keys, func(key []byte) bool { return base64.StdEncoding.EncodeToString(key) == k.Secret })
				if at >= 0 {
					p.id = plan.Fingerprint(keys[at])
					parts = append(parts, p)
				}
			}
		}
	}
	return parts, nil
}

// renderEncryption is the configuration with these keys.
func renderEncryption(parts []part) []byte {
	var keys strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&keys, encryptionKey, p.name, p.secret)
	}
	return fmt.Appendf(nil, encryptionTemplate, keys.String())
}

// is tells whether the part is the encryption key.
func (p part) is(key []byte) bool { return p.id == plan.Fingerprint(key) }

func partIDs(parts []part) []string {
	var ids []string
	for _, p := range parts {
		ids = append(ids, p.id)
	}
	return ids
}

// fingerprints are the ids of encryption keys.
func fingerprints(keys [][]byte) []string {
	var ids []string
	for _, key := range keys {
		ids = append(ids, plan.Fingerprint(key))
	}
	return ids
}

// switched has the part with the id in front.
func switched(parts []part, id string) ([]part, error) {
	at := slices.IndexFunc(parts, func(p part) bool { return p.id == id })
	switch {
	case at < 0:
		return nil, fmt.Errorf("there is no key %s", id)
	case parts[at].public != nil && !parts[at].private:
		return nil, fmt.Errorf("of the key %s only the public half is there, so that it cannot sign", id)
	}
	rest := slices.Delete(slices.Clone(parts), at, at+1)
	return append([]part{parts[at]}, rest...), nil
}

// dropped is without the part with the id, which must not be in use.
func dropped(parts []part, id string) ([]part, error) {
	if parts[0].id == id {
		return nil, fmt.Errorf("the key %s is in use", id)
	}
	return slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.id == id }), nil
}
