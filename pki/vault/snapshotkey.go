package vault

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"strings"

	"github.com/nodeagent/nodeagent/pki"
)

// snapshotKeySize is the size in bytes of a key that encrypts snapshots.
const snapshotKeySize = 32

// SnapshotKeyPath is where the key that encrypts the cluster's snapshots lies,
// as the vault command names it (without "data"): it stands in each snapshot.
func (p Place) SnapshotKeyPath(name string) string { return p.Secrets() + "/" + name }

// SnapshotKey returns the newest version of the key that encrypts snapshots, its
// number and its path. Where there has never been one it is made, once, like
// any shared secret.
func (i *Issuer) SnapshotKey(ctx context.Context, name string) (key []byte, version int, at string, err error) {
	at = i.place.SnapshotKeyPath(name)
	key, version, err = i.shared(ctx, name, func() ([]byte, error) {
		key := make([]byte, snapshotKeySize)
		_, err := rand.Read(key)
		return key, err
	})
	if err == nil {
		err = rightSize(key, at, version)
	}
	return key, version, at, err
}

// SnapshotKeyAt returns a version of a key by its path, which must be one of
// this cluster's.
func (i *Issuer) SnapshotKeyAt(ctx context.Context, at string, version int) ([]byte, error) {
	name, ok := strings.CutPrefix(at, i.place.Secrets()+"/")
	if !ok {
		return nil, fmt.Errorf("it lies in Vault at %s, and this fleet's secrets at %s: use the fleet of the cluster that was saved", at, i.place.Secrets())
	}
	// The path comes out of a snapshot, which anybody may have made.
	if first, _, _ := strings.Cut(name, "/"); first != "snapshots" || path.Clean(name) != name {
		return nil, fmt.Errorf("%q is no key of snapshots", at)
	}
	a := i.asked(fmt.Sprintf("read version %d of secret %q", version, name), "")
	a.engine = i.place.Secrets()
	key, _, err := i.readSecret(ctx, a, i.place.Secret(name), version)
	if err == nil && key == nil {
		err = &pki.Refusal{
			Cause: pki.CauseMissing, What: a.what, Err: fmt.Errorf("%s has no version %d any more, if it ever had", at, version),
			Remedy: "restore Vault's data of then, or take a snapshot that another key opens",
		}
	}
	if err == nil {
		err = rightSize(key, at, version)
	}
	return key, err
}

func rightSize(key []byte, at string, version int) error {
	if len(key) != snapshotKeySize {
		return fmt.Errorf("version %d of %s is no key of %d bytes in base64: write another version (`vault kv put`)", version, at, snapshotKeySize)
	}
	return nil
}
