//go:build unix

package pki

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// maxFile is the size up to which a file is read; a bundle of a hundred
// certificates stays far below.
const maxFile = 1 << 20

// read is the content of a file with its mode and owner.
type read struct {
	content []byte
	mode    fs.FileMode
	uid     uint32
}

// readFile reads a regular file. It follows no link and waits for no pipe, so
// that whatever lies in a certificate's place cannot hold it up.
func readFile(path string) (read, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return read{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return read{}, err
	}
	r := read{mode: info.Mode().Perm(), uid: owner(info)}
	if !info.Mode().IsRegular() {
		return r, errors.New("is not a regular file")
	}
	if info.Size() > maxFile {
		return r, fmt.Errorf("has %d bytes, more than any such file", info.Size())
	}
	r.content = make([]byte, info.Size())
	n, err := io.ReadFull(f, r.content)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // it shrank meanwhile: parsing tells whether that matters
	}
	r.content = r.content[:n]
	return r, err
}

func owner(info fs.FileInfo) uint32 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Uid
	}
	return uint32(os.Geteuid())
}

// readAs reads a file and parses it.
func readAs[T any](path string, parse func([]byte) (T, error)) (T, error) {
	r, err := readFile(path)
	if err != nil {
		var none T
		return none, err
	}
	return parse(r.content)
}

// problem words an error of readAs so that it goes on from the file's name.
func problem(err error) string {
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is missing"
	case errors.As(err, &at):
		return "cannot be read: " + at.Err.Error()
	}
	return err.Error()
}
