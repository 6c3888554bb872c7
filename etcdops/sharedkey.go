package etcdops

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
)

// SharedKeySize is the size in bytes of a key that snapshots are encrypted with.
const SharedKeySize = 32

// SharedKey is a key that a fleet keeps in a place of its own, as a recipient of
// age: whoever may read it there can open what it encrypts. Unlike a recipient's
// public key it is a secret. It encrypts the file key of age as age's own
// recipients do: ChaCha20-Poly1305 under a key that HKDF-SHA-256 derives from it,
// a random salt, and where it lies. The stanza has the path, the version and the
// salt, so that a key which is replaced by a later version opens what it had
// encrypted.
type SharedKey struct {
	// Path is where it lies, "nodeagent/mercury/secrets/snapshots"; it has no
	// spaces. Version is which one of those that were there, from 1.
	Path    string
	Version int
	Secret  []byte `json:"-"` // SharedKeySize bytes
}

const (
	stanzaShared = "nodeagent-shared"
	saltSize     = 16
	// wrappedSize is that of age's file key of 16 bytes with its tag.
	wrappedSize = 16 + chacha20poly1305.Overhead
)

// String says where the key lies, and nothing of it.
func (k SharedKey) String() string { return fmt.Sprintf("vault:%s@%d", k.Path, k.Version) }

// Format keeps the secret out of everything that is printed, with any verb.
func (k SharedKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// Wrap implements age.Recipient.
func (k *SharedKey) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	aead, err := k.aead(salt)
	if err != nil {
		return nil, err
	}
	return []*age.Stanza{{
		Type: stanzaShared, Args: []string{k.Path, strconv.Itoa(k.Version), base64.RawStdEncoding.EncodeToString(salt)},
		Body: aead.Seal(nil, make([]byte, aead.NonceSize()), fileKey, nil), // the key is used for this alone
	}}, nil
}

func (k *SharedKey) aead(salt []byte) (cipher.AEAD, error) {
	if len(k.Secret) != SharedKeySize {
		return nil, fmt.Errorf("the key of %s has %d bytes, not %d", k, len(k.Secret), SharedKeySize)
	}
	key, err := hkdf.Key(sha256.New, k.Secret, salt, "nodeagent snapshot\x00"+k.String(), chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.New(key)
}

// SharedIdentity opens what a SharedKey has encrypted. It is asked for the key
// only when a snapshot names it.
type SharedIdentity struct {
	Context context.Context
	// Lookup returns the secret of a version of the key at a path.
	Lookup func(ctx context.Context, path string, version int) ([]byte, error)
}

// Unwrap implements age.Identity. That the key cannot be had is an error that
// wraps ErrLocked.
func (s *SharedIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	var failed []error
	for _, stanza := range stanzas {
		if stanza.Type != stanzaShared {
			continue
		}
		fileKey, err := s.unwrap(stanza)
		if err == nil {
			return fileKey, nil
		}
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, err
	}
	return nil, age.ErrIncorrectIdentity
}

func (s *SharedIdentity) unwrap(stanza *age.Stanza) ([]byte, error) {
	if len(stanza.Args) != 3 || len(stanza.Body) != wrappedSize {
		return nil, errors.New("the stanza of a shared key is damaged")
	}
	key := &SharedKey{Path: stanza.Args[0]}
	version, err := strconv.Atoi(stanza.Args[1])
	salt, saltErr := base64.RawStdEncoding.Strict().DecodeString(stanza.Args[2])
	if err != nil || saltErr != nil || len(salt) != saltSize || version < 1 {
		return nil, errors.New("the stanza of a shared key is damaged")
	}
	key.Version = version
	if key.Secret, err = s.Lookup(s.Context, key.Path, version); err != nil {
		return nil, fmt.Errorf("%w with the key %s, which cannot be had: %w", ErrLocked, key, err)
	}
	aead, err := key.aead(salt)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	fileKey, err := aead.Open(nil, make([]byte, aead.NonceSize()), stanza.Body, nil)
	if err != nil {
		return nil, age.ErrIncorrectIdentity
	}
	return fileKey, nil
}

// openedBy says who can open what is sealed: age's public keys, and where shared
// keys lie.
func (s Sealing) openedBy() []string {
	var list []string
	for _, recipient := range s.Recipients {
		if text, ok := recipient.(fmt.Stringer); ok {
			list = append(list, text.String())
		}
	}
	return list
}
