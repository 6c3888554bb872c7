package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// VerifyOptions says how a snapshot is verified.
type VerifyOptions struct {
	// SkipHash accepts a database without a trailer, as it lies in a data
	// folder (member/snap/db). A trailer that is there is checked all the same.
	SkipHash bool
	// Objects asks for the count of Kubernetes objects by resource.
	Objects bool
	// Progress, if set, is called with the bytes hashed and in all.
	Progress func(done, total int64)
}

// Report is what Verify found in a snapshot that passed.
type Report struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	// SHA256 is of the whole file, hexadecimal.
	SHA256 string `json:"sha256"`
	// Trailer tells whether the SHA-256 that etcd put at the end was there; it
	// matched.
	Trailer bool `json:"trailer"`
	// Manifest is the one beside it, which matched, or nil.
	Manifest *Manifest `json:"manifest,omitempty"`
	Contents
}

// Verify reads the snapshot in full and refuses one that is not exactly what
// etcd sent, or that etcd could not open: first what the file is at all, then
// the trailer, the manifest if there is one, every page of the database, and
// every key through etcd's own storage code. It changes nothing. Errors wrap
// one of ErrNotSnapshot, ErrTruncated, ErrNoTrailer, ErrHashMismatch,
// ErrManifestMismatch and ErrCorrupt, or are the operating system's.
func Verify(ctx context.Context, path string, opts VerifyOptions) (Report, error) {
	report, err := verifyFile(ctx, path, opts)
	if err != nil {
		return Report{}, fmt.Errorf("verify %q: %w", path, err)
	}
	return report, nil
}

func verifyFile(ctx context.Context, path string, opts VerifyOptions) (_ Report, err error) {
	f, size, trailer, err := openSnapshot(path, opts.SkipHash)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	report := Report{Path: path, Size: size, Trailer: trailer}
	sum := newTrailerHash()
	if err := copyWithProgress(ctx, sum, io.NewSectionReader(f, 0, size), size, opts.Progress); err != nil {
		return Report{}, err
	}
	ok, _, whole := sum.sums()
	report.SHA256 = whole
	dbSize := size
	if trailer {
		if !ok {
			return Report{}, fmt.Errorf("%w: take another one", ErrHashMismatch)
		}
		dbSize -= trailerSize
	}
	if err := report.checkManifest(path); err != nil {
		return Report{}, err
	}
	var objects map[string]int64
	if opts.Objects {
		objects = map[string]int64{}
	}
	if report.Contents, err = inspect(ctx, path, dbSize, objects); err != nil {
		return Report{}, err
	}
	return report, report.compareContents()
}

// compareContents compares what is in the snapshot with what the manifest says
// of it: a manifest with the right hash that was edited would otherwise be
// believed by everybody who reads no more than it.
func (r *Report) compareContents() error {
	switch m := r.Manifest; {
	case m == nil:
	case m.Revision != r.Revision:
		return fmt.Errorf("%w: it ends at revision %d, the manifest says %d", ErrManifestMismatch, r.Revision, m.Revision)
	case m.Keys != r.Keys:
		return fmt.Errorf("%w: it has %d keys, the manifest says %d", ErrManifestMismatch, r.Keys, m.Keys)
	}
	return nil
}

// checkManifest compares the file with the manifest beside it, if there is one.
func (r *Report) checkManifest(path string) error {
	m, err := readManifest(path)
	if errors.Is(err, ErrNoManifest) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrManifestMismatch, err)
	}
	if m.Size != r.Size {
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", ErrManifestMismatch, r.Size, m.Size)
	}
	if m.SHA256 != r.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrManifestMismatch, r.SHA256, m.SHA256)
	}
	r.Manifest = &m
	return nil
}

// copyWithProgress copies all of r and stops when ctx is done.
func copyWithProgress(ctx context.Context, w io.Writer, r io.Reader, total int64, progress func(done, total int64)) error {
	buffer := make([]byte, 256<<10)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			done += int64(n)
			if progress != nil {
				progress(done, total)
			}
		}
		if errors.Is(err, io.EOF) {
			if done != total {
				return fmt.Errorf("%w: it became shorter while it was read", ErrTruncated)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
