package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// OpenOptions says how the bytes that etcd sent are got out of a snapshot.
type OpenOptions struct {
	// Identities open an encrypted one.
	Identities []age.Identity
	// Trust says whose snapshots are believed; the zero one asks nobody.
	Trust
	// Scratch is the folder where a sealed snapshot lies unsealed, without a
	// name, while it is in use; the snapshot's own by default.
	Scratch string
	// StoredHash takes the SHA-256 of the file itself for proof of what comes out
	// of it, where a signed manifest has it and the file is of that form: a third
	// of the bytes of a hash over what comes out. The save has written both hashes
	// of one stream; age and zstd check on top what they open.
	StoredHash bool
	// Progress, if set, is called with the bytes of the file read and in all.
	Progress func(done, total int64)
}

// opened is a snapshot whose plain bytes are in a file.
type opened struct {
	*os.File
	// plain is a path by which the plain bytes can be opened while it is open.
	plain string
	size  int64 // of the plain bytes
	// linkable tells that they were unsealed into a file that can be given a name on
	// its disk, moved that it was: they are somebody's file now.
	linkable, moved bool
	// sum is nil where the stored hash is the proof.
	sum    *trailerHash
	stored Stored
	// manifest is the one beside it, nil where there is none.
	manifest  *Manifest
	signature Signature
}

// openPlain opens a snapshot of whatever form, and reads all of it once: its
// hashes are known then, and a sealed one lies unsealed in the scratch folder.
func openPlain(ctx context.Context, path string, opts OpenOptions) (_ *opened, err error) {
	in, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, in.Close())
		}
	}()
	o := &opened{File: in, plain: path, sum: newTrailerHash()}
	head := make([]byte, 512)
	n, err := in.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if isSealed(head[:n]) || sniff(path, head[:n]) == nil { // before all of it is read
		if o.manifest, o.signature, err = opts.origin(path); err != nil {
			return nil, err
		}
	}
	read := &following{ctx: ctx, r: io.NewSectionReader(in, 0, size), total: size, progress: opts.Progress}
	if isSealed(head[:n]) {
		err = o.readSealed(path, read, opts)
	} else if err = sniff(path, head[:n]); err == nil { // before all of something else is read
		err = o.readPlain(read)
	}
	if err == nil && o.stored.Size != size {
		err = fmt.Errorf("%w: it became shorter while it was read", ErrTruncated)
	}
	if err != nil {
		return nil, errors.Join(err, o.closeScratch(in))
	}
	keep = o.File == in
	return o, nil
}

// whole is whether the trailer matches, and the SHA-256 of all plain bytes; both
// are the manifest's word where the stored hash is the proof.
func (o *opened) whole() (ok bool, sum string) {
	if o.sum == nil {
		return true, o.manifest.SHA256
	}
	ok, _, sum = o.sum.sums()
	return ok, sum
}

// closeScratch closes the scratch file after a failure, if there is one.
func (o *opened) closeScratch(in *os.File) error {
	if o.File == in || o.File == nil {
		return nil
	}
	return o.Close()
}

func (o *opened) readPlain(r io.Reader) error {
	err := copyBeside(r, o.sum)
	_, o.stored.SHA256 = o.whole()
	o.size, o.stored.Size = o.sum.n, o.sum.n
	return err
}

// moveTo makes a file of what was unsealed, which is somebody else's from then on,
// and tells whether it could: not what was plain before, nor onto another disk, nor
// where the file system has no files without a name.
func (o *opened) moveTo(path string) bool {
	o.moved = o.linkable && unix.Linkat(unix.AT_FDCWD, o.plain, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW) == nil
	return o.moved
}

// readSealed hashes what lies in the file and, unless that is proof enough, what
// comes out of it, on a core each.
func (o *opened) readSealed(path string, r io.Reader, opts OpenOptions) error {
	stored := newCountingHash()
	hashing := newBeside(stored)
	err := o.unseal(path, io.TeeReader(r, cloning{hashing}), opts)
	err = errors.Join(err, hashing.Close())
	o.stored.Size, o.stored.SHA256 = stored.n, stored.sum()
	return err
}

// unseal puts the plain bytes of what r reads into a scratch file.
func (o *opened) unseal(path string, r io.Reader, opts OpenOptions) error {
	plain, form, err := unseal(r, opts.Identities)
	if err != nil {
		return err
	}
	o.stored.Form = form
	dir := opts.Scratch
	if dir == "" {
		dir = filepath.Dir(path)
	}
	f, err := scratch(dir)
	if err != nil {
		return errors.Join(fmt.Errorf("unseal: %w", err), plain.Close())
	}
	o.File, o.plain, o.linkable = f.File, f.path, f.linkable
	if opts.StoredHash && o.signature.By != "" && o.manifest.Stored.Form == form {
		o.sum = nil
		o.size, err = copyLarge(f, plain)
		return errors.Join(err, plain.Close())
	}
	err = errors.Join(copyBeside(plain, f, o.sum), plain.Close())
	o.size = o.sum.n
	return err
}

// openRegular opens a snapshot's file.
func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if info.IsDir() {
		hint := ""
		if inside := filepath.Join(path, "member", "snap", "db"); regular(inside) {
			hint = fmt.Sprintf("; it is a data folder of etcd, whose database is %q", inside)
		}
		return nil, 0, fmt.Errorf("%w: %q is a folder%s", ErrNotSnapshot, path, hint)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: %q is no regular file", ErrNotSnapshot, path)
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}

func regular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// isSealed tells whether a file with that beginning is of a sealed form.
func isSealed(head []byte) bool {
	return strings.HasPrefix(string(head), magicAge) || strings.HasPrefix(string(head), magicZstd)
}

// following is a reader that stops when ctx is done, and tells how far it has
// come.
type following struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	progress    func(done, total int64)
}

func (f *following) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := f.r.Read(p)
	if f.done += int64(n); n > 0 && f.progress != nil {
		f.progress(f.done, f.total)
	}
	return n, err
}
