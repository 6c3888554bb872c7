package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Held is what the local issuer of a cluster of one host holds: all that another
// issuer needs to go on in its place. It has secrets in it; what it prints of
// itself has none.
type Held struct {
	// Authorities are those that sign, in the order of layout.CAs.
	Authorities []HeldAuthority
	// Keys are the secrets that control planes share, sorted by name.
	Keys []HeldKey
}

// HeldAuthority is one authority with its key.
type HeldAuthority struct {
	Name        string // one of the layout.CA… constants
	Certificate *x509.Certificate
	key         crypto.Signer
}

// HeldKey is one secret: KeyServiceAccount or KeyEncryption.
type HeldKey struct {
	Name    string
	Content []byte
}

// String has no secret in it.
func (h Held) String() string {
	return fmt.Sprintf("%d authorities and %d keys of the local issuer", len(h.Authorities), len(h.Keys))
}

// String has no secret in it.
func (a HeldAuthority) String() string { return "authority " + a.Name }

// String has no secret in it.
func (k HeldKey) String() string { return "key " + k.Name }

// PEM is the certificate and, behind it, its private key (PKCS #8).
func (a HeldAuthority) PEM() ([]byte, error) {
	key, err := encodeKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encode the key of authority %q: %w", a.Name, err)
	}
	return slices.Concat(encodeCertificate(a.Certificate.Raw), key), nil
}

// Held reads all that the issuer holds, for another one to go on with. It fails
// where that is not whole, and while something of it is being changed, since
// that goes on only here.
func (l *Local) Held(ctx context.Context) (Held, error) {
	var h Held
	defer l.Keys.Forget()
	failed := l.unfinished(ctx)
	for _, ca := range layout.CAs() {
		a, err := l.held(ctx, ca)
		if CauseOf(err) == CauseLocked {
			return Held{}, err // what opens one opens all
		}
		if err != nil {
			failed = append(failed, err)
		}
		if a != nil {
			h.Authorities = append(h.Authorities, *a)
		}
	}
	if len(h.Authorities) == 0 && len(failed) == 0 {
		failed = append(failed, fmt.Errorf("there is none in %s", l.Root.LocalCA("")))
	}
	controls := slices.ContainsFunc(h.Authorities, func(a HeldAuthority) bool { return a.Name == layout.CAFrontProxy })
	for _, name := range []string{KeyEncryption, KeyServiceAccount} {
		if !controls && newObserver(l.Root).key(name).Condition == Missing {
			continue // only control planes have them
		}
		content, _, err := (&LocalKeys{Root: l.Root}).ReadKey(ctx, name)
		if err == nil && name == KeyServiceAccount {
			content, err = canonicalSigners(content)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		h.Keys = append(h.Keys, HeldKey{name, content})
	}
	if err := errors.Join(failed...); err != nil {
		return Held{}, fmt.Errorf("read what the local issuer holds: %w", err)
	}
	return h, nil
}

// unfinished names the changes that are under way.
func (l *Local) unfinished(ctx context.Context) (failed []error) {
	for _, name := range append(layout.CAs(), keyPrefix+KeyEncryption, keyPrefix+KeyServiceAccount) {
		change, err := LocalChanges{l.Root}.Load(ctx, name)
		switch {
		case err != nil:
			failed = append(failed, err)
		case change != nil && change.Key != nil:
			failed = append(failed, fmt.Errorf("the change of %s is under way: finish it first, or turn it back (nodeagent certs rotate-key)", name))
		case change != nil:
			failed = append(failed, fmt.Errorf("the change of CA %q is under way: finish it first, or turn it back (nodeagent certs rotate-ca %s)", name, name))
		}
	}
	return failed
}

// held is one authority; nil where the cluster has none of that name.
func (l *Local) held(ctx context.Context, ca string) (*HeldAuthority, error) {
	signs, beside := readAuthorities(l.Root, ca)
	if beside != nil {
		return nil, fmt.Errorf("authority %q has a second one beside it: finish its change first (nodeagent certs rotate-ca %s)", ca, ca)
	}
	if signs.Condition == Missing {
		if _, err := os.Lstat(l.Root.Trust(ca)); ca == layout.CANodeagent || errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("the host trusts a CA %q that is not among what was given: %s has no key of it", ca, l.Root.LocalCA(ca))
	}
	signs, err := loadAuthority(l.Root, ca)
	if err != nil {
		return nil, err
	}
	key, err := signs.signer(ctx, l.Keys)
	if err != nil {
		return nil, err
	}
	return &HeldAuthority{ca, signs.certificate, key}, nil
}

// canonicalSigners is the secret as it is shared: each key once.
func canonicalSigners(content []byte) ([]byte, error) {
	parts, err := parseSigners(content)
	if err != nil {
		return nil, fmt.Errorf("the service account key %w", err)
	}
	return joinParts(KeyServiceAccount, parts), nil
}

// KeyIDs are what the keys of a shared secret are known by, first the one that
// signs or encrypts. They are no secret.
func KeyIDs(name string, content []byte) ([]string, error) { return keyIDs(name, content) }
