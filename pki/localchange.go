package pki

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

var _ Rotator = (*Local)(nil)

// Authorities implements Rotator.
func (l *Local) Authorities(_ context.Context, ca string) ([]*x509.Certificate, error) {
	signs, err := loadAuthority(l.Root, ca)
	if err != nil {
		return nil, err
	}
	list := []*x509.Certificate{signs.certificate}
	if _, beside := readAuthorities(l.Root, ca); beside != nil {
		if beside.Condition != Sound {
			return nil, fmt.Errorf("read authority %q in %q: %s", ca, l.Root.LocalCABeside(ca), beside.Problem)
		}
		list = append(list, beside.certificate)
	}
	return list, nil
}

// Add implements Rotator: the second authority lives as long as the first was
// to live, and its key lies as that one's does. It is made whole under a name
// that nobody looks at.
func (l *Local) Add(ctx context.Context, ca string) (err error) {
	list, err := l.Authorities(ctx, ca)
	if err != nil || len(list) == 2 {
		return err
	}
	signs, err := loadAuthority(l.Root, ca)
	if err != nil {
		return err
	}
	beside := l.Root.LocalCABeside(ca)
	staged, err := os.MkdirTemp(filepath.Dir(beside), atomicfile.TempPrefix)
	if err != nil {
		return fmt.Errorf("add authority %q: %w", ca, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged)) }()
	if err := l.makeBeside(filepath.Join(staged, "new"), ca, signs); err != nil {
		return fmt.Errorf("add authority %q: %w", ca, err)
	}
	if err := os.Rename(filepath.Join(staged, "new"), beside); err != nil {
		return fmt.Errorf("add authority %q: %w", ca, err)
	}
	l.did("authority added")
	return atomicfile.SyncDir(filepath.Dir(beside))
}

func (l *Local) makeBeside(dir, ca string, signs authorityFiles) error {
	d, old := disk{l.step}, signs.certificate
	key, err := makeAuthorityKey(d, dir, sealer(l.Keys, signs.Encrypted))
	if err != nil {
		return err
	}
	// Another subject than the old one's: a chain leads to one of them by its
	// name alone.
	subject := pkix.Name{CommonName: ca + " " + keyID(key.Public())[:8], Organization: old.Subject.Organization}
	content, err := selfSign(key, subject, old.NotAfter.Sub(old.NotBefore)-Backdate, l.now())
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, authorityCert), content, 0o644); err != nil {
		return err
	}
	d.did("authority certificate written")
	return nil
}

// Switch implements Rotator: the two folders change places in one step of the
// kernel's (renameat2(2), RENAME_EXCHANGE).
func (l *Local) Switch(ctx context.Context, ca, id string) error {
	list, err := l.Authorities(ctx, ca)
	if err != nil {
		return err
	}
	switch {
	case KeyID(list[0]) == id:
		return nil
	case len(list) < 2 || KeyID(list[1]) != id:
		return fmt.Errorf("switch authority %q: there is none with the key %s", ca, id)
	}
	signs, beside := l.Root.LocalCA(ca), l.Root.LocalCABeside(ca)
	if err := unix.Renameat2(unix.AT_FDCWD, signs, unix.AT_FDCWD, beside, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("switch authority %q: exchange %s and %s: %w", ca, signs, beside, err)
	}
	l.did("authorities switched")
	return atomicfile.SyncDir(filepath.Dir(signs))
}

// Drop implements Rotator.
func (l *Local) Drop(ctx context.Context, ca, id string) (err error) {
	list, err := l.Authorities(ctx, ca)
	if err != nil {
		return err
	}
	switch {
	case KeyID(list[0]) == id:
		return fmt.Errorf("drop authority %q: the one with the key %s signs", ca, id)
	case len(list) < 2 || KeyID(list[1]) != id:
		return nil
	}
	beside := l.Root.LocalCABeside(ca)
	if err := moveAway(filepath.Dir(beside), beside); err != nil {
		return fmt.Errorf("drop authority %q: %w", ca, err)
	}
	l.did("authority moved away")
	return disk{l.step}.clean(filepath.Dir(beside))
}

func (l *Local) did(name string) { disk{l.step}.did(name) }
