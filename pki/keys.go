package pki

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// keyPurpose is what a plan shows of a key that is to be made.
var keyPurpose = map[string]string{
	KeyServiceAccount: "ECDSA P-256 key pair that signs service account tokens",
	KeyEncryption:     "secretbox key that encrypts Secrets in etcd",
}

// keyWork decides what is to be done with a key, and why; no reason for
// nothing. A key that is sound is never replaced.
func keyWork(have *Key, name string, etcdData bool) (plan.Action, string) {
	switch {
	case have == nil || have.Condition == Missing:
		if name == KeyEncryption && etcdData {
			return plan.ActionIssue, "the key is missing, but etcd holds data that may be encrypted with it; none is made, a person must put it back"
		}
		return plan.ActionIssue, "the key is missing"
	case have.Condition == Incomplete:
		return plan.ActionUpdate, have.Problem + "; it is written again from the private key"
	case have.Condition == Damaged && name == KeyEncryption && etcdData:
		return plan.ActionIssue, have.Problem + ", but etcd holds data that may be encrypted with the key; none is made, a person must put it back"
	case have.Condition == Damaged && name == KeyServiceAccount:
		return plan.ActionIssue, have.Problem + "; tokens that it signed become invalid"
	case have.Condition == Damaged:
		return plan.ActionIssue, have.Problem
	}
	return "", ""
}

// encryptionTemplate is what kube-apiserver reads. The identity provider comes
// last so that what was stored unencrypted can still be read. See
// https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/.
const encryptionTemplate = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - secretbox:
          keys:
%s      - identity: {}
`

// encryptionKey is one key in it.
const encryptionKey = `            - name: %s
              secret: %s
`

// freshEncryption makes an encryption configuration with a random key.
func freshEncryption() ([]byte, error) {
	key := make([]byte, secretboxKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make encryption key: %w", err)
	}
	return renderEncryption([]part{{name: "key1", secret: base64.StdEncoding.EncodeToString(key)}}), nil
}

// EncryptionKeys returns the fingerprints of this host's keys that encrypt
// Secrets in etcd, first the one in use; none where the file is missing. A
// snapshot of etcd cannot be read in full without the key that was in use then.
func EncryptionKeys(root layout.Root) ([]string, error) {
	keys, err := readAs(root.EncryptionConfig(), parseEncryptionKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read encryption keys: %q %s", root.EncryptionConfig(), problem(err))
	}
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = plan.Fingerprint(key)
	}
	return list, nil
}

// NamedKey is an encryption key as kube-apiserver names it in what it writes.
type NamedKey struct {
	// Name is that of the key of the provider secretbox, ID its fingerprint.
	Name, ID string
}

// NamedEncryptionKeys returns the same keys as EncryptionKeys with their names.
func NamedEncryptionKeys(root layout.Root) ([]NamedKey, error) {
	parts, err := readAs(root.EncryptionConfig(), secretboxKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read encryption keys: %q %s", root.EncryptionConfig(), problem(err))
	}
	list := make([]NamedKey, len(parts))
	for i, p := range parts {
		list[i] = NamedKey{p.name, p.id}
	}
	return list, nil
}

// freshServiceAccount makes a private key that signs service account tokens.
func freshServiceAccount() ([]byte, error) {
	key, err := newKey("ecdsa-p256")
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

// makeKey brings a key into the wanted state. dataExists is asked before an
// encryption key is made: a new one could not read what the old one wrote.
func makeKey(ctx context.Context, d disk, root layout.Root, name string, issuer func(context.Context) (Issuer, error), dataExists func() (bool, error)) error {
	have := newObserver(root).key(name)
	if have.Condition == Sound {
		return nil
	}
	if name == KeyServiceAccount && have.Condition == Incomplete {
		content, err := readSigners(root)
		if err != nil {
			return err
		}
		return publishServiceAccount(d, root, content, true)
	}
	source, err := issuer(ctx)
	if err != nil {
		return err
	}
	if name == KeyServiceAccount {
		content, err := source.Secret(ctx, name, freshServiceAccount)
		if err != nil {
			return err
		}
		return publishServiceAccount(d, root, content, false)
	}
	content, err := source.Secret(ctx, name, func() ([]byte, error) {
		return freshUnlessData(root, dataExists)
	})
	if err != nil {
		return err
	}
	return publishEncryption(d, root, content)
}

// publishEncryption writes the configuration. Keys that it has no more are kept
// beside it first, for snapshots that were taken with them.
func publishEncryption(d disk, root layout.Root, content []byte) error {
	if err := retire(root, content); err != nil {
		return err
	}
	d.did("keys retired")
	return publishKey(d, root, KeyEncryption, []file{{filepath.Base(root.EncryptionConfig()), content, 0o600}})
}

// freshUnlessData makes an encryption key only where nothing can have been
// written with another one.
func freshUnlessData(root layout.Root, dataExists func() (bool, error)) ([]byte, error) {
	exists, err := dataExists()
	if err != nil {
		return nil, fmt.Errorf("ask whether etcd holds data: %w", err)
	}
	if exists {
		return nil, fmt.Errorf("etcd holds data in %q, or held it, that may be encrypted with the key that is lost: put %q back from a backup; to give the encrypted Secrets up, move etcd's data away and delete %q",
			root.EtcdData(), root.EncryptionConfig(), root.EtcdMarker())
	}
	return freshEncryption()
}

// besideFile holds, on the only host of a cluster, the private keys that do not
// sign while one is changed for another.
const besideFile = "sa.beside"

// publishServiceAccount writes the key that signs with the public halves of all
// keys in the content. The private halves of the others are written only where
// there is no other place for them.
func publishServiceAccount(d disk, root layout.Root, content []byte, beside bool) error {
	parts, err := parseSigners(content)
	if err != nil {
		return fmt.Errorf("the service account key %w", err)
	}
	public, err := publics(parts)
	if err != nil {
		return err
	}
	files := []file{
		{filepath.Base(root.ServiceAccountKey()), []byte(parts[0].secret), 0o600},
		{filepath.Base(root.ServiceAccountPublic()), public, 0o644},
	}
	var others []part
	for _, p := range parts[1:] {
		if p.private {
			others = append(others, p)
		}
	}
	if beside && len(others) > 0 {
		files = append(files, file{besideFile, joinParts(KeyServiceAccount, others), 0o600})
	}
	return publishKey(d, root, KeyServiceAccount, files)
}

// readSigners is the content of the service account secret as it lies on this
// host: the key that signs, the private keys beside it, and the public keys that
// have no private half here.
func readSigners(root layout.Root) ([]byte, error) {
	key, err := readFile(root.ServiceAccountKey())
	if err != nil {
		return nil, err
	}
	content := append(bytes.TrimSpace(key.content), '\n')
	beside, err := readFile(filepath.Join(filepath.Dir(root.ServiceAccountKey()), besideFile))
	if err == nil {
		content = append(content, beside.content...)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Public keys that cannot be read are made from the private ones.
	if public, err := readFile(root.ServiceAccountPublic()); err == nil {
		if _, err := parsePublics(public.content); err == nil {
			content = append(content, public.content...)
		}
	}
	return content, nil
}

// publishKey makes files the key's generation in use, checked by the same eyes
// that observe it later.
func publishKey(d disk, root layout.Root, name string, files []file) error {
	keep := false // what is replaced here could not be used
	return d.publish(filepath.Join(keysFolder(root), name), files, keep, func(generation string) error {
		if err := sameFiles(generation, files); err != nil {
			return err
		}
		o := newObserver(root)
		k := Key{Name: name}
		if name == KeyEncryption {
			k = o.encryption(k, generation)
		} else {
			k = o.serviceAccount(k, generation)
		}
		if k.Condition != Sound {
			return errors.New(k.Problem)
		}
		return nil
	})
}

// sameFiles reads a generation back and compares it with what was written.
func sameFiles(generation string, files []file) error {
	for _, f := range files {
		r, err := readFile(filepath.Join(generation, f.name))
		if err != nil {
			return err
		}
		if !bytes.Equal(r.content, f.content) || r.mode != f.mode {
			return fmt.Errorf("read back %q: %w", f.name, errDiffers)
		}
	}
	return nil
}

var errDiffers = fmt.Errorf("content or mode is not what was written: %w", fs.ErrInvalid)
