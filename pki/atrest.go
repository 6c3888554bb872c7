package pki

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// AtRest opens what kube-apiserver has encrypted in etcd, with the keys that this
// host has and those that it has dropped. It holds the keys: keep it short.
type AtRest struct{ keys [][secretboxKeyBytes]byte }

// OpenAtRest reads the host's keys; none where it never had one.
func OpenAtRest(root layout.Root) (AtRest, error) {
	keys, err := readAs(root.EncryptionConfig(), parseEncryptionKeys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return AtRest{}, fmt.Errorf("read encryption keys: %q %s", root.EncryptionConfig(), problem(err))
	}
	retired, err := readRetired(root)
	if err != nil {
		return AtRest{}, fmt.Errorf("read dropped encryption keys: %w", err)
	}
	for line := range strings.Lines(retired) {
		if secret, ok := strings.CutPrefix(strings.TrimSpace(line), "secret: "); ok {
			if key, err := base64.StdEncoding.DecodeString(secret); err == nil {
				keys = append(keys, key)
			}
		}
	}
	var a AtRest
	for _, key := range keys {
		if len(key) == secretboxKeyBytes {
			a.keys = append(a.keys, [secretboxKeyBytes]byte(key))
		}
	}
	return a, nil
}

// secretboxNonceBytes is the size of the nonce before the encrypted bytes.
const secretboxNonceBytes = 24

// Open decrypts a value of etcd; false where it is not encrypted by secretbox, or
// with none of the keys. See the transformers of k8s.io/apiserver: after the
// prefix k8s:enc:secretbox:v1:NAME: come the nonce and the box.
func (a AtRest) Open(value []byte) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(value, []byte("k8s:enc:secretbox:v1:"))
	if !ok {
		return nil, false
	}
	_, box, ok := bytes.Cut(rest, []byte(":"))
	if !ok || len(box) < secretboxNonceBytes {
		return nil, false
	}
	nonce := [secretboxNonceBytes]byte(box[:secretboxNonceBytes])
	for _, key := range a.keys {
		if plain, ok := secretbox.Open(nil, box[secretboxNonceBytes:], &nonce, &key); ok {
			return plain, true
		}
	}
	return nil, false
}
