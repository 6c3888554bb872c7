package etcdops

import (
	"context"
	"errors"
	"fmt"
)

// VerifyOptions says how a snapshot is opened and verified.
type VerifyOptions struct {
	OpenOptions
	// SkipHash accepts a database without a trailer, as it lies in a data
	// folder (member/snap/db). A trailer that is there is checked all the same.
	SkipHash bool
	// Objects asks for the count of Kubernetes objects by resource.
	Objects bool
}

// Report is what Verify found in a snapshot that passed.
type Report struct {
	Path string `json:"path"`
	// Size and SHA256 (hexadecimal) are of what etcd sent, the hash as the signed
	// manifest has it where only the file was hashed (StoredHash); Stored is the
	// file.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Stored Stored `json:"stored"`
	// Trailer tells whether the SHA-256 that etcd put at the end was there; it
	// matched.
	Trailer bool `json:"trailer"`
	// Manifest is the one beside it, which matched, or nil.
	Manifest *Manifest `json:"manifest,omitempty"`
	// Signature says who has signed the manifest.
	Signature Signature `json:"signature"`
	Contents
}

// Verify reads the snapshot in full and refuses one that is not exactly what
// etcd sent, or that etcd could not open: first what the file is at all, then
// the trailer, the manifest if there is one, every page of the database, and
// every key through etcd's own storage code. It changes nothing. Errors wrap
// one of ErrNotSnapshot, ErrTruncated, ErrNoTrailer, ErrHashMismatch,
// ErrManifestMismatch, ErrNotSigned and ErrCorrupt, or are the operating system's.
func Verify(ctx context.Context, path string, opts VerifyOptions) (Report, error) {
	report, err := verifyFile(ctx, path, opts)
	if err != nil {
		return Report{}, fmt.Errorf("verify %q: %w", path, err)
	}
	return report, nil
}

func verifyFile(ctx context.Context, path string, opts VerifyOptions) (_ Report, err error) {
	o, report, err := openVerified(ctx, path, opts)
	if err != nil {
		return Report{}, err
	}
	return report, o.Close()
}

// openVerified opens a snapshot and verifies it; the caller closes it. As long as
// it is open a sealed one needs not be unsealed again.
func openVerified(ctx context.Context, path string, opts VerifyOptions) (*opened, Report, error) {
	o, err := openPlain(ctx, path, opts.OpenOptions)
	if err != nil {
		return nil, Report{}, err
	}
	report, err := o.verify(ctx, path, opts)
	if err != nil {
		return nil, Report{}, errors.Join(err, o.Close())
	}
	return o, report, nil
}

// verify checks an opened snapshot, whose file is at the path.
func (o *opened) verify(ctx context.Context, path string, opts VerifyOptions) (Report, error) {
	report := Report{Path: path, Size: o.size, Stored: o.stored}
	var err error
	if report.Trailer, err = looksLikeSnapshot(o, path, o.size, opts.SkipHash); err != nil {
		return Report{}, err
	}
	ok, whole := o.whole()
	report.SHA256 = whole
	dbSize := o.size
	if report.Trailer {
		if !ok {
			return Report{}, fmt.Errorf("%w: take another one", ErrHashMismatch)
		}
		dbSize -= trailerSize
	}
	report.Manifest, report.Signature = o.manifest, o.signature
	if err := report.checkManifest(); err != nil {
		return Report{}, err
	}
	var objects map[string]int64
	if opts.Objects {
		objects = map[string]int64{}
	}
	if report.Contents, err = inspect(ctx, o.plain, dbSize, objects); err != nil {
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
	case m.Hash != r.Hash && m.Hash != 0: // which the first manifests did not have
		return fmt.Errorf("%w: the hash of its keys and values is %08x, the manifest says %08x", ErrManifestMismatch, r.Hash, m.Hash)
	}
	return nil
}

// checkManifest compares the file with the manifest beside it, if there is one.
func (r *Report) checkManifest() error {
	m := r.Manifest
	if m == nil {
		return nil
	}
	if m.Size != r.Size {
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", ErrManifestMismatch, r.Size, m.Size)
	}
	if m.SHA256 != r.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrManifestMismatch, r.SHA256, m.SHA256)
	}
	// Whoever has unpacked the file, or packed it otherwise, has the same snapshot.
	if m.Stored.Form == r.Stored.Form && m.Stored != r.Stored {
		return fmt.Errorf("%w: the file has %d bytes with the SHA-256 %s, the manifest says %d and %s",
			ErrManifestMismatch, r.Stored.Size, r.Stored.SHA256, m.Stored.Size, m.Stored.SHA256)
	}
	return nil
}
