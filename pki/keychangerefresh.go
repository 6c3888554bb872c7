package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// errNotShared is what an issuer that shares secrets with nobody answers.
var errNotShared = errors.New("no host shares it")

// RefreshKeys fetches the secrets of want from the issuer and writes those that
// are others than on disk; it returns their names. A change of a key reaches a
// host in this way. What is missing or damaged is the business of domain pki.
//
// A secret that has none of the keys in use before it is not taken, as
// [Applier.Refresh] says of trust bundles.
func (a *Applier) RefreshKeys(ctx context.Context, want State) ([]string, error) {
	issuer, err := a.Issuer(ctx)
	if err != nil {
		return nil, err
	}
	var changed []string
	var failed []error
	for _, w := range want.Keys {
		done, err := a.refreshKey(ctx, issuer, w.Name)
		if err != nil && !errors.Is(err, errNotShared) {
			failed = append(failed, err)
			if CauseOf(err) == CauseUnreachable {
				break
			}
		}
		if done {
			changed = append(changed, w.Name)
		}
	}
	return changed, errors.Join(failed...)
}

func (a *Applier) refreshKey(ctx context.Context, issuer Issuer, name string) (bool, error) {
	have := newObserver(a.Root).key(name)
	if have.Condition != Sound {
		return false, nil
	}
	content, err := issuer.Secret(ctx, name, func() ([]byte, error) { return nil, errNotShared })
	if err != nil {
		return false, err
	}
	ids, err := keyIDs(name, content)
	if err != nil {
		return false, fmt.Errorf("refresh key %q: what the issuer answered %w", name, err)
	}
	same, err := sameKeys(a.Root, name, content)
	if err != nil || same {
		return false, err
	}
	if !overlap(ids, have.IDs) {
		return false, &Refusal{
			Cause: CauseUntrusted, What: fmt.Sprintf("refresh key %q", name),
			Err:    errors.New("it answers none of the keys that this host uses"),
			Remedy: fmt.Sprintf("if the key was changed while this host was off, remove the link %s and run nodeagent apply --only pki, which fetches it anew", filepath.Join(keysFolder(a.Root), name, currentLink)),
		}
	}
	d := disk{a.step}
	if name == KeyServiceAccount {
		err = publishServiceAccount(d, a.Root, content, false)
	} else {
		err = publishEncryption(d, a.Root, content)
	}
	if err != nil {
		return false, fmt.Errorf("refresh key %q: %w", name, err)
	}
	return true, nil
}

// keyIDs are the ids of a secret's keys in their order. An encryption
// configuration may be one that a person has written.
func keyIDs(name string, content []byte) ([]string, error) {
	if name == KeyServiceAccount {
		parts, err := parseSigners(content)
		return partIDs(parts), err
	}
	keys, err := parseEncryptionKeys(content)
	return fingerprints(keys), err
}

// sameKeys tells whether the files on disk are those of the content.
func sameKeys(root layout.Root, name string, content []byte) (bool, error) {
	if name == KeyEncryption {
		have, err := readFile(root.EncryptionConfig())
		return bytes.Equal(have.content, content), err
	}
	parts, err := parseSigners(content)
	if err != nil {
		return false, err
	}
	public, err := publics(parts)
	if err != nil {
		return false, err
	}
	signer, err := readAs(root.ServiceAccountKey(), parseKey)
	if err != nil {
		return false, err
	}
	have, err := readFile(root.ServiceAccountPublic())
	return samePublic(signer.Public(), parts[0].public) && bytes.Equal(have.content, public), err
}
