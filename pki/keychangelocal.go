package pki

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// KeyStore holds the secrets of a cluster, each with all of its keys.
type KeyStore interface {
	// ReadKey returns the content of a secret and its version.
	ReadKey(ctx context.Context, name string) (content []byte, version int, err error)
	// WriteKey replaces the content that has the version; it fails, and changes
	// nothing, where that is not the newest any more.
	WriteKey(ctx context.Context, name string, content []byte, version int) error
	// ForgetKey destroys what may still be read of older versions, where that is
	// of no use to anybody.
	ForgetKey(ctx context.Context, name string) error
}

// LocalKeys are the secrets of the only host of a cluster: the files that its
// components read. Who uses it holds the host's lock.
type LocalKeys struct {
	Root layout.Root

	// step is called where a crash leaves another state on disk; see Applier.
	step func(name string)
}

var _ KeyStore = (*LocalKeys)(nil)

// ReadKey implements KeyStore. There are no versions.
func (l *LocalKeys) ReadKey(_ context.Context, name string) (content []byte, version int, err error) {
	if k := newObserver(l.Root).key(name); k.Condition != Sound {
		return nil, 0, fmt.Errorf("read key %q: it is not sound (%s): run nodeagent apply --only pki first", name, k.Problem)
	}
	if name == KeyServiceAccount {
		content, err = readSigners(l.Root)
		return content, 0, err
	}
	r, err := readFile(l.Root.EncryptionConfig())
	return r.content, 0, err
}

// WriteKey implements KeyStore: one rename switches from one content to the
// other.
func (l *LocalKeys) WriteKey(_ context.Context, name string, content []byte, _ int) error {
	d := disk{l.step}
	if name == KeyServiceAccount {
		return publishServiceAccount(d, l.Root, content, true)
	}
	return publishEncryption(d, l.Root, content)
}

// ForgetKey implements KeyStore: nothing older than what is in use is kept.
func (l *LocalKeys) ForgetKey(context.Context, string) error { return nil }
