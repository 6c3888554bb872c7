package pki

import (
	"context"
	"crypto"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/plan"
)

func (o *observer) keys(context.Context) {
	for _, name := range []string{KeyEncryption, KeyServiceAccount} {
		if k := o.key(name); k.Condition != Missing || len(k.Leftovers) > 0 {
			o.state.Keys = append(o.state.Keys, k)
		}
	}
}

// key reads one key's folder.
func (o *observer) key(name string) Key {
	k := Key{Name: name}
	dir := filepath.Join(keysFolder(o.root), name)
	names, err := leftovers(dir)
	o.fail(err)
	k.Leftovers = names
	generation, err := current(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return k
	}
	if err != nil {
		k.Condition, k.Problem = Damaged, currentLink+" "+problem(err)
		return k
	}
	o.folder(dir)
	o.folder(generation)
	o.previous(dir)
	if name == KeyEncryption {
		o.regular(retiredPath(o.root), 0o600)
		return o.encryption(k, generation)
	}
	return o.serviceAccount(k, generation)
}

func (o *observer) encryption(k Key, generation string) Key {
	file := filepath.Base(o.root.EncryptionConfig())
	var keys [][]byte
	content, err := o.file(filepath.Join(generation, file), 0o600)
	if err == nil {
		keys, err = parseEncryptionKeys(content)
	}
	if err != nil {
		k.Condition, k.Problem = Damaged, file+" "+problem(err)
		return k
	}
	k.Condition, k.Fingerprint = Sound, plan.Fingerprint(keys[0])
	for _, key := range keys {
		k.IDs = append(k.IDs, plan.Fingerprint(key))
	}
	return k
}

func (o *observer) serviceAccount(k Key, generation string) Key {
	private, public := filepath.Base(o.root.ServiceAccountKey()), filepath.Base(o.root.ServiceAccountPublic())
	var key crypto.Signer
	content, err := o.file(filepath.Join(generation, private), 0o600)
	if err == nil {
		key, err = parseKey(content)
	}
	if err != nil {
		k.Condition, k.Problem = Damaged, private+" "+problem(err)
		return k
	}
	k.Condition, k.Fingerprint = Sound, plan.Fingerprint([]byte(keyID(key.Public())))
	content, err = o.file(filepath.Join(generation, public), 0o644)
	if err == nil {
		k.IDs, err = checkPublics(content, key)
	}
	if err != nil {
		k.Condition, k.Problem = Incomplete, public+" "+problem(err)
	}
	o.regular(filepath.Join(generation, besideFile), 0o600)
	return k
}

// checkPublics returns the ids of a bundle of public keys, that of the key's own
// first, which must be there. Others' tokens are still accepted.
func checkPublics(content []byte, key crypto.Signer) ([]string, error) {
	list, err := parsePublics(content)
	if err != nil {
		return nil, err
	}
	ids := []string{keyID(key.Public())}
	own := false
	for _, p := range list {
		if samePublic(p, key.Public()) {
			own = true
		} else {
			ids = append(ids, keyID(p))
		}
	}
	if !own {
		return nil, errors.New("does not have the public half of the private key")
	}
	return ids, nil
}
