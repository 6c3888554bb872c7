package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Refresh fetches the trust bundles of want from the issuer and writes those
// that are others than on disk; it returns their CAs. A change of a CA reaches a
// host in this way, and nothing else of what a host has on disk ever waits for
// its issuer.
//
// A bundle that has none of the keys before it is not taken: an issuer that
// answers so is not the one that this host knows, or the host was off while a CA
// was changed, which only a person can tell apart.
func (a *Applier) Refresh(ctx context.Context, want State) ([]string, error) {
	issuer, err := a.Issuer(ctx)
	if err != nil {
		return nil, err
	}
	var changed []string
	var failed []error
	for _, w := range want.Trust {
		done, err := a.refresh(ctx, issuer, w.CA)
		if err != nil {
			failed = append(failed, err)
			if CauseOf(err) == CauseUnreachable {
				break
			}
		}
		if done {
			changed = append(changed, w.CA)
		}
	}
	return changed, errors.Join(failed...)
}

func (a *Applier) refresh(ctx context.Context, issuer Issuer, ca string) (bool, error) {
	path := a.Root.Trust(ca)
	have, err := readFile(path)
	if err != nil {
		return false, nil // domain pki fetches what is missing
	}
	before, err := parseBundle(have.content)
	if err != nil {
		return false, nil // and what is damaged
	}
	content, err := issuer.Bundle(ctx, ca)
	if err != nil || bytes.Equal(content, have.content) {
		return false, err
	}
	after, err := parseBundle(content)
	if err != nil {
		return false, fmt.Errorf("refresh trust bundle %q: what the issuer answered %w", ca, err)
	}
	known := false
	for _, b := range before {
		for _, c := range after {
			known = known || samePublic(b.PublicKey, c.PublicKey)
		}
	}
	if !known {
		return false, &Refusal{
			Cause: CauseUntrusted, What: fmt.Sprintf("refresh trust bundle %q", ca),
			Err:    errors.New("it answers none of the authorities that this host trusts"),
			Remedy: a.strangerRemedy(ca, before),
		}
	}
	if err := atomicfile.Write(path, content, 0o644); err != nil {
		return false, fmt.Errorf("refresh trust bundle %q in %s: %w", ca, filepath.Dir(path), err)
	}
	return true, nil
}

// strangerRemedy is what to do about an issuer that knows none of the authorities
// that this host trusts.
func (a *Applier) strangerRemedy(ca string, trusted []*x509.Certificate) string {
	own, _ := readAuthorities(a.Root, ca)
	if slices.ContainsFunc(trusted, func(c *x509.Certificate) bool { return keyID(c.PublicKey) == own.KeyID }) {
		return "this host's certificates are those of its local issuer, whose CAs Vault has not got: nothing is taken from there before they are (nodeagent pki bootstrap --adopt-local; see docs/vault.md)"
	}
	return fmt.Sprintf("if the CA was changed while this host was off, remove %s and run nodeagent apply --only pki, which fetches it anew", a.Root.Trust(ca))
}
