package etcdops

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Form is how the bytes of a snapshot lie in its file: as etcd sent them, or
// compressed, or encrypted, or compressed and then encrypted. Taken out of it
// they are what etcdutl restores, the trailer included.
type Form struct {
	// Compression is "zstd" (RFC 8878) or empty.
	Compression string `json:"compression,omitempty"`
	// Encryption is "age" (age-encryption.org/v1) or empty.
	Encryption string `json:"encryption,omitempty"`
}

const (
	compressionZstd = "zstd"
	encryptionAge   = "age"

	suffixZstd = ".zst"
	suffixAge  = ".age"

	magicZstd = "\x28\xb5\x2f\xfd"
	magicAge  = "age-encryption.org/"
)

// plain tells whether the file holds what etcd sent.
func (f Form) plain() bool { return f == Form{} }

// atMost is how large a file of this form is that size bytes are put into, as
// far as can be told before. A database of Kubernetes objects is compressed to a
// third.
func (f Form) atMost(size int64) int64 {
	if f.Compression != "" {
		return size / 2
	}
	return size
}

// suffix ends the name of a file of this form: the usual ones, so that zstd(1)
// and age(1) open it.
func (f Form) suffix() string {
	suffix := snapshotSuffix
	if f.Compression != "" {
		suffix += suffixZstd
	}
	if f.Encryption != "" {
		suffix += suffixAge
	}
	return suffix
}

// splitName cuts the suffix of a snapshot of whatever form off; ok is false for
// the name of something else.
func splitName(path string) (stem string, ok bool) {
	path = strings.TrimSuffix(path, suffixAge)
	path = strings.TrimSuffix(path, suffixZstd)
	return strings.CutSuffix(path, snapshotSuffix)
}

// Sealing says into which form a snapshot is put.
type Sealing struct {
	// Compress makes it about a third as large, at less than the time that etcd
	// takes to send it.
	Compress bool
	// Recipients are those who can open it, each alone; nobody is needed to
	// write it. None leaves it unencrypted.
	Recipients []age.Recipient
}

func (s Sealing) form() Form {
	var f Form
	if s.Compress {
		f.Compression = compressionZstd
	}
	if len(s.Recipients) > 0 {
		f.Encryption = encryptionAge
	}
	return f
}

// seal returns a writer that puts what is written to it into the form, and what
// comes out into w; look, if it is not nil, sees it piece by piece on the way and may
// refuse it. Close ends it, also after an error; it does not close w.
func (s Sealing) seal(w io.Writer, look func(piece []byte) error) (io.WriteCloser, error) {
	var chain chainWriter
	if len(s.Recipients) > 0 {
		encrypted, err := age.Encrypt(w, s.Recipients...)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		chain, w = append(chain, encrypted), encrypted
	}
	var pack packer = loose{w}
	if s.Compress {
		var err error
		if pack, err = newFrames(w, len(s.Recipients) == 0); err != nil { // age tells of each changed bit
			return nil, err
		}
	}
	return append(chain, newPieces(pack, look)), nil
}

// chainWriter is writers of which each writes to the one before; the last one is
// written to.
type chainWriter []io.WriteCloser

func (c chainWriter) Write(p []byte) (int, error) { return c[len(c)-1].Write(p) }

func (c chainWriter) Close() error { return closeBackward(c) }

// closeBackward closes from the last, which works on those before it, to the first.
func closeBackward[C io.Closer](layers []C) error {
	var errs []error
	for _, c := range slices.Backward(layers) {
		errs = append(errs, c.Close())
	}
	return tellOnce(errs...)
}

// tellOnce joins errors, of which a layer's is often that of the layer below.
func tellOnce(errs ...error) error {
	var told []error
	for _, err := range errs {
		if err != nil && !slices.ContainsFunc(told, func(other error) bool { return errors.Is(other, err) }) {
			told = append(told, err)
		}
	}
	if len(told) == 1 {
		return told[0]
	}
	return errors.Join(told...)
}

// ErrLocked is the error of a snapshot that is encrypted, for none of the
// identities that were given.
var ErrLocked = errors.New("snapshot is encrypted")

// maxWindow bounds the memory that unpacking takes, whatever a file says that it
// needs; what nodeagent and zstd(1) up to level 19 write needs at most 8 MiB.
const maxWindow = 64 << 20

// unseal returns the bytes that etcd sent, and the form in which r had them. An
// error of reading wraps ErrTruncated where something is missing, and
// ErrHashMismatch where a bit has changed.
func unseal(r io.Reader, identities []age.Identity) (io.ReadCloser, Form, error) {
	var form Form
	var layers []io.Closer
	buffered := bufio.NewReaderSize(r, writeSize)
	if begins(buffered, magicAge) {
		form.Encryption = encryptionAge
		plain, err := decrypt(buffered, identities)
		if err != nil {
			return nil, form, err
		}
		ahead := readAhead(unsealReader{plain})
		layers = append(layers, ahead)
		buffered = bufio.NewReaderSize(ahead, writeSize)
	}
	if !begins(buffered, magicZstd) {
		return unsealed{buffered, layers}, form, nil
	}
	form.Compression = compressionZstd
	unpacked, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, form, errors.Join(fmt.Errorf("unpack: %w", err), closeBackward(layers))
	}
	ahead := readAhead(unsealReader{unpacked})
	return unsealed{ahead, append(layers, unpacked.IOReadCloser(), ahead)}, form, nil
}

// unsealed reads what the last of its layers opens, and closes all of them.
type unsealed struct {
	io.Reader
	layers []io.Closer
}

func (u unsealed) Close() error { return closeBackward(u.layers) }

func begins(r *bufio.Reader, magic string) bool {
	head, _ := r.Peek(len(magic)) // an error comes again when it is read
	return string(head) == magic
}

func decrypt(r io.Reader, identities []age.Identity) (io.Reader, error) {
	if len(identities) == 0 {
		return nil, fmt.Errorf("%w, and no identity was given that opens it: name the age identity file (--identity, or snapshots.identity_file of the spec)", ErrLocked)
	}
	plain, err := age.Decrypt(r, identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fmt.Errorf("%w, and none of the %d identities that were given opens it: give that of one of those whom its manifest names (openedBy), with --identity", ErrLocked, len(identities))
	}
	if errors.Is(err, ErrLocked) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its age header cannot be read: %w", ErrHashMismatch, err)
	}
	return plain, nil
}

// isSystem tells whether the operating system refused, which says nothing about
// the snapshot.
func isSystem(err error) bool {
	var system *os.PathError
	return errors.As(err, &system) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// unsealReader says of an error of a layer what it means for the snapshot.
type unsealReader struct{ r io.Reader }

func (u unsealReader) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
	case errors.Is(err, ErrTruncated), errors.Is(err, ErrHashMismatch), isSystem(err):
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: %w", ErrTruncated, err)
	default:
		err = fmt.Errorf("%w: %w", ErrHashMismatch, err)
	}
	return n, err
}
