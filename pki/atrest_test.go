package pki

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// atRest encrypts as kube-apiserver does.
func atRest(t *testing.T, key [32]byte, plain string) []byte {
	t.Helper()
	var nonce [24]byte
	rand.Read(nonce[:])
	return secretbox.Seal(append([]byte("k8s:enc:secretbox:v1:key1:"), nonce[:]...), []byte(plain), &nonce, &key)
}

func TestAtRest(t *testing.T) {
	root := layout.Root(t.TempDir())
	if a, err := OpenAtRest(root); err != nil || len(a.keys) != 0 {
		t.Fatalf("without keys: %d, %v", len(a.keys), err)
	}
	used, dropped, foreign := [32]byte{1}, [32]byte{2}, [32]byte{3}
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(root.EncryptionConfig(), renderEncryption([]part{{name: "key1", secret: base64.StdEncoding.EncodeToString(used[:])}}))
	write(retiredPath(root), []byte(retiredHeader+"# id, dropped 2026-01-01\n- name: key0\n  secret: "+base64.StdEncoding.EncodeToString(dropped[:])+"\n"))
	a, err := OpenAtRest(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][32]byte{used, dropped} {
		if plain, ok := a.Open(atRest(t, key, "k8s\x00object")); !ok || string(plain) != "k8s\x00object" {
			t.Errorf("%q, %t", plain, ok)
		}
	}
	changed := atRest(t, used, "object")
	changed[len(changed)-1] ^= 1
	for name, value := range map[string][]byte{
		"another's key": atRest(t, foreign, "object"),
		"changed":       changed,
		"cut off":       atRest(t, used, "object")[:30],
		"other cipher":  bytes.Replace(atRest(t, used, "object"), []byte("secretbox"), []byte("aescbc"), 1),
		"plain":         []byte("k8s\x00object"),
	} {
		if _, ok := a.Open(value); ok {
			t.Errorf("%s is opened", name)
		}
	}
}
