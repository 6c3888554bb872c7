package etcdops

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// A manifest is signed in its own file. What is signed are the bytes of the file
// up to the line of the signature, which is the last one before the closing
// brace:
//
//	{
//	  "format": 3,
//	  …
//	  "signedBy": "MCowBQYDK2VwAyEA…",
//	  "signature": "…"
//	}
//
// So nothing has to be put into a canonical form before it is checked, the file
// stays JSON that people read, sed and openssl check it (docs/design.md), and a
// copy of the file is a copy of its signature. After the signed bytes nothing
// may stand but that line, so there is no place for what was not signed. A
// string in JSON has no line break, so the first such line is the only one.

// signatureLine begins the line of the signature.
const signatureLine = "  \"signature\": \""

// signatureTail is the end of a signed manifest.
func signatureTail(signature string) string { return signatureLine + signature + "\"\n}\n" }

// cutSignature is what of a manifest's file is signed; ok is false where there is
// no signature.
func cutSignature(content []byte) (signed, tail []byte, ok bool) {
	i := bytes.Index(content, []byte("\n"+signatureLine))
	if i < 0 {
		return nil, nil, false
	}
	return content[:i+1], content[i+1:], true
}

// encode is the manifest's file.
func (m Manifest) encode() ([]byte, error) {
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return append(content, '\n'), nil
}

// sign signs the manifest as it is; nothing of it may change afterwards.
func (m *Manifest) sign(s *Signer) error {
	if s == nil {
		m.SignedBy, m.Signature = "", ""
		return nil
	}
	m.SignedBy, m.Signature = s.public, "placeholder"
	content, err := m.encode()
	if err != nil {
		return err
	}
	signed, _, ok := cutSignature(content)
	if !ok {
		return errors.New("sign manifest: it has no line for the signature")
	}
	m.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(s.private, signed))
	return nil
}

// ErrSignature is the error of a manifest that was changed after it was signed.
var ErrSignature = errors.New("the manifest's signature does not match: it was changed after it was signed, so take another copy of both files, or another snapshot")

// checkSignature checks a signature with the key that the manifest names itself.
// Whose key that is, [Trust] tells. No signature is no error here.
func (m Manifest) checkSignature(content []byte) error {
	signed, tail, ok := cutSignature(content)
	if !ok && m.SignedBy == "" && m.Signature == "" {
		return nil
	}
	if !ok || m.SignedBy == "" || m.Signature == "" || string(tail) != signatureTail(m.Signature) {
		return ErrSignature
	}
	public, err := parsePublicKey(m.SignedBy)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrSignature, err)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(m.Signature)
	if err != nil || !ed25519.Verify(public, signed, signature) {
		return ErrSignature
	}
	return nil
}

// parsePublicKey reads the public half of a host's snapshot key: Ed25519 in DER
// (RFC 8410), base64.
func parsePublicKey(text string) (ed25519.PublicKey, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("the key that it names is not base64")
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("the key that it names is no public key")
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the key that it names is of another kind, %T", key)
	}
	return public, nil
}
