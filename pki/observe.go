package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Observe reads what is on disk. It writes nothing, asks no issuer, and one
// damaged file hides no other: it becomes a Problem in the state. The error
// names folders that could not be read, such as by a user who may not; the
// state then holds the rest.
func Observe(ctx context.Context, root layout.Root) (State, error) {
	o := newObserver(root)
	for _, part := range []func(context.Context){o.folders, o.authorities, o.trust, o.keys, o.certificates, o.etcd} {
		if err := ctx.Err(); err != nil {
			return o.state, errors.Join(append(o.errs, err)...)
		}
		part(ctx)
	}
	return o.state, errors.Join(o.errs...)
}

// ObservePairs is Observe of the certificates alone, without what signed them:
// a third of its work, for those who ask only what is in use.
func ObservePairs(ctx context.Context, root layout.Root) (State, error) {
	o := newObserver(root)
	o.certificates(ctx)
	return o.state, errors.Join(o.errs...)
}

// observer gathers a state.
type observer struct {
	root    layout.Root
	uid     uint32
	state   State
	anchors []anchorKey
	errs    []error
}

func newObserver(root layout.Root) *observer {
	return &observer{root: root, uid: uint32(os.Geteuid())}
}

// fail keeps an error unless it only says that nothing is there.
func (o *observer) fail(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.errs = append(o.errs, fmt.Errorf("observe certificates: %w", err))
	}
}

// list lists a folder; one that is not there is empty.
func (o *observer) list(dir string) []fs.DirEntry {
	entries, err := os.ReadDir(dir)
	o.fail(err)
	return entries
}

// mode records a wrong mode or owner.
func (o *observer) mode(path string, have, want fs.FileMode, uid uint32) {
	if have.Perm() != want || uid != o.uid {
		o.state.Modes = append(o.state.Modes, Mode{Path: path, Have: have.Perm(), Want: want, UID: uid, Foreign: uid != o.uid})
	}
}

// folder checks the mode of a folder and tells whether it is one.
func (o *observer) folder(path string) bool {
	info, err := os.Lstat(path)
	o.fail(err)
	if err != nil || !info.IsDir() {
		return false
	}
	o.mode(path, info.Mode(), 0o700, owner(info))
	return true
}

// file reads a file and checks its mode.
func (o *observer) file(path string, mode fs.FileMode) ([]byte, error) {
	r, err := readFile(path)
	if err != nil {
		return nil, err
	}
	o.mode(path, r.mode, mode, r.uid)
	return r.content, nil
}

func certsFolder(root layout.Root) string { return filepath.Join(root.PKI(), "certs") }
func keysFolder(root layout.Root) string  { return filepath.Join(root.PKI(), "keys") }

func (o *observer) folders(context.Context) {
	o.folder(o.root.PKI())
	o.folder(certsFolder(o.root))
	o.folder(keysFolder(o.root))
	o.folder(filepath.Dir(o.root.Trust("")))
	if dir := filepath.Dir(o.root.LocalCA("x")); o.folder(dir) {
		o.temporary(dir)
		o.keyring()
	}
}

// keyring looks at what opens the authorities' keys.
func (o *observer) keyring() {
	k := &o.state.CAKeys
	k.Protection = ProtectPlain
	content, err := o.file(o.root.LocalKeyring(), 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var held keyringFile
	if err == nil {
		held, err = parseKeyring(content)
	}
	if err != nil {
		k.Condition, k.Problem = Damaged, filepath.Base(o.root.LocalKeyring())+" "+problem(err)
		return
	}
	k.Condition, k.Protection = Sound, held.Protection
}

// authorityFiles looks at the files of one authority, but not into them.
func (o *observer) authorityFiles(name, dir string) {
	o.temporary(dir)
	at := CAKey{
		Name: name, Dir: dir,
		Clear:  o.regular(filepath.Join(dir, authorityKey), 0o600),
		Sealed: o.regular(filepath.Join(dir, authorityKeySealed), 0o600),
	}
	o.regular(filepath.Join(dir, authorityCert), 0o644)
	if at.Clear || at.Sealed {
		o.state.CAKeys.Files = append(o.state.CAKeys.Files, at)
	}
}

func (o *observer) authorities(context.Context) {
	for _, name := range layout.CAs() {
		dir := o.root.LocalCA(name)
		if !o.folder(dir) {
			continue
		}
		o.authorityFiles(name, dir)
		a, beside := readAuthorities(o.root, name)
		o.state.Authorities = append(o.state.Authorities, a.Authority)
		if beside != nil {
			o.beside(name, beside)
		}
		switch {
		case a.certificate != nil:
			o.anchor(anchorOf(a.certificate))
		case a.key != nil:
			o.anchor(anchorKey{id: a.KeyID, public: a.key.Public()})
		}
	}
}

// beside looks at the folder of an authority that only checks what it signed.
func (o *observer) beside(name string, a *authorityFiles) {
	dir := o.root.LocalCABeside(name)
	o.folder(dir)
	o.authorityFiles(name+" beside", dir)
	if a.certificate != nil {
		o.anchor(anchorOf(a.certificate))
	}
}

// regular checks the mode of a file that is read elsewhere, and tells whether
// it is there.
func (o *observer) regular(path string, want fs.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	o.mode(path, info.Mode(), want, owner(info))
	return true
}

func (o *observer) anchor(a anchorKey) {
	if !slices.ContainsFunc(o.anchors, func(b anchorKey) bool { return a.id == b.id }) {
		o.anchors = append(o.anchors, a)
	}
}

// temporary records temporary files that an interrupted run left in dir.
func (o *observer) temporary(dir string) {
	for _, e := range o.list(dir) {
		if strings.HasPrefix(e.Name(), atomicfile.TempPrefix) {
			o.state.Leftovers = append(o.state.Leftovers, filepath.Join(dir, e.Name()))
		}
	}
}

func (o *observer) trust(context.Context) {
	o.temporary(filepath.Dir(o.root.Trust("")))
	for _, ca := range layout.CAs() {
		b := Bundle{CA: ca}
		content, err := o.file(o.root.Trust(ca), 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var list []*x509.Certificate
		if err == nil {
			list, err = parseBundle(content)
		}
		if err != nil {
			b.Condition, b.Problem = Damaged, problem(err)
		} else {
			b.Condition, b.Digest, b.SignerEnd = Sound, digest(content), list[0].NotAfter
		}
		for _, c := range list {
			b.KeyIDs = append(b.KeyIDs, keyID(c.PublicKey))
			if c.NotAfter.After(b.NotAfter) {
				b.NotAfter = c.NotAfter
			}
			o.anchor(anchorOf(c))
		}
		o.state.Trust = append(o.state.Trust, b)
	}
}

// etcd tells whether etcd has data on this host: the folder "member" is what
// etcd makes when it first starts.
func (o *observer) etcd(context.Context) {
	found, err := etcdData(o.root)
	o.fail(err)
	o.state.EtcdData = found
}

// etcdData tells whether etcd has data on this host, or has had: data that is
// lost comes back with a snapshot, and wants the key with which it was written.
func etcdData(root layout.Root) (bool, error) {
	for _, path := range []string{filepath.Join(root.EtcdData(), "member"), root.EtcdMarker()} {
		_, err := os.Stat(path)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
