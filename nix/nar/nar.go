// Package nar writes folders as Nix archives (NAR), the form of a file tree that
// Nix takes its hashes of: contents, names, links and whether a file can be
// executed, in one order, and nothing else. So the hash of a vendored tree is
// found without Nix.
//
// The format is that of figure 5.2 in E. Dolstra, "The Purely Functional Software
// Deployment Model" (2006).
package nar

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Hash is the SHA-256 of the archive of a file tree, as Nix writes it in
// outputHash and vendorHash: "sha256-" and base64.
func Hash(path string) (string, error) {
	sum := sha256.New()
	if err := Write(sum, path); err != nil {
		return "", err
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)), nil
}

// Write writes the archive of a file, a link or a folder with all below it.
func Write(w io.Writer, path string) error {
	a := &archive{w: w}
	a.word("nix-archive-1")
	a.node(path)
	if a.err != nil {
		return fmt.Errorf("archive %q: %w", path, a.err)
	}
	return nil
}

// archive is one archive being written; after the first error it writes nothing.
type archive struct {
	w   io.Writer
	err error
}

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
}

// length writes a number of bytes: 64 bits, the lowest first.
func (a *archive) length(n int64) { a.write(binary.LittleEndian.AppendUint64(nil, uint64(n))) }

// pad fills up with zeroes to a multiple of eight bytes, after n of them.
func (a *archive) pad(n int64) { a.write(make([]byte, (8-n%8)%8)) }

func (a *archive) word(s string) {
	a.length(int64(len(s)))
	a.write([]byte(s))
	a.pad(int64(len(s)))
}

func (a *archive) words(words ...string) {
	for _, s := range words {
		a.word(s)
	}
}

func (a *archive) node(path string) {
	if a.err != nil {
		return
	}
	info, err := os.Lstat(path)
	if err != nil {
		a.fail(err)
		return
	}
	a.words("(", "type")
	switch info.Mode().Type() {
	case 0:
		a.file(path, info)
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			a.fail(err)
		}
		a.words("symlink", "target", target)
	case fs.ModeDir:
		a.folder(path)
	default:
		a.fail(fmt.Errorf("%q is no file, link or folder: an archive cannot hold it", path))
	}
	a.word(")")
}

func (a *archive) file(path string, info fs.FileInfo) {
	a.word("regular")
	if info.Mode()&0o100 != 0 {
		a.words("executable", "")
	}
	a.word("contents")
	f, err := os.Open(path)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	a.length(info.Size())
	if a.err != nil {
		return
	}
	n, err := io.Copy(a.w, f)
	switch {
	case err != nil:
		a.fail(err)
	case n != info.Size():
		a.fail(fmt.Errorf("%q changed while it was read", path))
	}
	a.pad(n)
}

// folder writes the entries in the order of their names' bytes, which is that of
// os.ReadDir.
func (a *archive) folder(path string) {
	a.word("directory")
	entries, err := os.ReadDir(path)
	if err != nil {
		a.fail(err)
	}
	for _, e := range entries {
		a.words("entry", "(", "name", e.Name(), "node")
		a.node(filepath.Join(path, e.Name()))
		a.word(")")
	}
}
