package etcdops

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Signer is a host's key for the manifests of its snapshots. It never leaves the
// host, and is never printed.
type Signer struct {
	private ed25519.PrivateKey
	public  string
}

// PublicKey is the public half as it stands in fleets and manifests: Ed25519 in
// DER (RFC 8410), base64, which is what is between the lines of its PEM file.
func (s *Signer) PublicKey() string { return s.public }

func newSigner(private ed25519.PrivateKey) (*Signer, error) {
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{private, base64.StdEncoding.EncodeToString(der)}, nil
}

// HostSigner returns the host's key, which is made if there is none; made tells
// whether it was. One that is there and cannot be read is an error, never
// replaced: the fleet knows its public half.
func HostSigner(root layout.Root) (signer *Signer, made bool, err error) {
	path := root.SnapshotKey()
	signer, err = readSigner(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeSigner(path); err == nil {
			made = true
		}
		if err == nil || errors.Is(err, os.ErrExist) { // another process was faster
			signer, err = readSigner(path)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("the host's snapshot key: %w", err)
	}
	return signer, made, nil
}

const pemPrivateKey = "PRIVATE KEY"

// readSigner never repeats what is in the file.
func readSigner(path string) (*Signer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block != nil && block.Type == pemPrivateKey {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if private, ok := key.(ed25519.PrivateKey); ok {
				return newSigner(private)
			}
		}
	}
	return nil, fmt.Errorf("%q is no Ed25519 key in PEM: put it back from a backup, or move it aside to have another one made, whose public half the fleet then needs", path)
}

// makeSigner writes a new key. The link makes it exist, whole and only once: of
// two processes one gets an error that wraps os.ErrExist.
func makeSigner(path string) (err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	dir := filepath.Dir(path)
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, atomicfile.TempPrefix) // with mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := pem.Encode(f, &pem.Block{Type: pemPrivateKey, Bytes: der}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}
