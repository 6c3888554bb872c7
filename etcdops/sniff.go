package etcdops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// The reasons for which a file is refused. Errors of Verify wrap one of them
// and add what was found and what to do.
var (
	ErrNotSnapshot      = errors.New("not an etcd snapshot")
	ErrTruncated        = errors.New("snapshot is cut off")
	ErrNoTrailer        = errors.New("snapshot has no SHA-256 trailer")
	ErrHashMismatch     = errors.New("snapshot does not match its SHA-256 trailer: at least one bit of it changed")
	ErrManifestMismatch = errors.New("snapshot is not the one that its manifest describes")
	ErrCorrupt          = errors.New("database is damaged inside")
)

// sizeHasTrailer tells whether a file of n bytes can be whole database pages
// followed by a trailer. It is etcd's own rule (etcdutl snapshot): the smallest
// page is a multiple of 512 bytes.
func sizeHasTrailer(n int64) bool { return n > trailerSize && n%512 == trailerSize }

// looksLikeSnapshot refuses what is, as its beginning and its size tell, no
// bbolt database, and tells whether a trailer follows the database. The name is
// for the error.
func looksLikeSnapshot(f io.ReaderAt, name string, size int64, skipHash bool) (trailer bool, err error) {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if err := sniff(name, head[:n]); err != nil {
		return false, err
	}
	return checkSize(f, name, size, skipHash)
}

// notSnapshots are beginnings of what is given by mistake most often.
var notSnapshots = []struct{ magic, what string }{
	{"\x1f\x8b", "a gzip file: unpack it first"},
	{"\xfd7zXZ\x00", "an xz file: unpack it first"},
	{"PK\x03\x04", "a zip file: unpack it first"},
	{"{", "JSON text, perhaps a manifest: give the .db file beside it"},
}

// sniff says what a file is that is no database, from its first bytes.
func sniff(path string, head []byte) error {
	if len(head) == 0 {
		return fmt.Errorf("%w: %q is empty", ErrNotSnapshot, path)
	}
	if _, err := readMeta(head); err == nil {
		return nil
	}
	for _, other := range notSnapshots {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return fmt.Errorf("%w: %q is %s", ErrNotSnapshot, path, other.what)
		}
	}
	text := bytes.ToLower(bytes.TrimSpace(head))
	for _, tag := range []string{"<!doctype html", "<html", "<?xml"} {
		if bytes.HasPrefix(text, []byte(tag)) {
			return fmt.Errorf("%w: %q is an HTML or XML page, as a download that failed leaves it: fetch the snapshot again", ErrNotSnapshot, path)
		}
	}
	return nil // the pages tell: a first page that is damaged may have a good copy
}

// checkSize tells whether a trailer is there, and refuses sizes that no
// snapshot has.
func checkSize(f io.ReaderAt, path string, size int64, skipHash bool) (trailer bool, err error) {
	meta, err := findMeta(f, size)
	if err != nil {
		return false, fmt.Errorf("%w: %q: %w", ErrNotSnapshot, path, err)
	}
	pages := int64(meta.pages) * int64(meta.pageSize)
	if size < pages {
		return false, fmt.Errorf("%w: %q has %d bytes, its database alone has %d: fetch it again or take another one", ErrTruncated, path, size, pages)
	}
	if sizeHasTrailer(size) {
		return true, nil
	}
	if size%512 != 0 {
		return false, fmt.Errorf("%w: %q has %d bytes, which is neither a database (a multiple of 512) nor one with its 32 bytes of SHA-256", ErrTruncated, path, size)
	}
	if !skipHash {
		return false, fmt.Errorf("%w: the end of %q is cut off, or it was copied out of a data folder (member/snap/db), where a copy made while etcd ran is torn; "+
			"if you know that etcd was stopped then, skip the hash check", ErrNoTrailer, path)
	}
	return false, nil
}
