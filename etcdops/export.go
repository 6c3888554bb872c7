package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Export verifies the snapshot and writes what etcd sent to w: a database with
// its trailer, which etcdutl restores. Nothing is written of one that Verify
// refuses.
func Export(ctx context.Context, path string, opts VerifyOptions, w io.Writer) (_ Report, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export %q: %w", path, err)
		}
	}()
	o, err := openPlain(ctx, path, opts.OpenOptions)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	report, err := o.verify(ctx, path, opts)
	if err != nil {
		return Report{}, err
	}
	_, err = copyLarge(w, &following{ctx: ctx, r: io.NewSectionReader(o, 0, o.size)})
	return report, err
}

// ExportFile is Export into a file, which appears whole or not at all, with mode
// 0600. One that is there is not written over.
func ExportFile(ctx context.Context, path string, opts VerifyOptions, to string) (report Report, err error) {
	if _, err := os.Lstat(to); err == nil {
		return Report{}, fmt.Errorf("export %q: %q is there already: name another file, or remove it", path, to)
	} else if !errors.Is(err, os.ErrNotExist) {
		return Report{}, fmt.Errorf("export %q: %w", path, err)
	}
	err = atomicfile.WriteFrom(to, 0o600, func(w io.Writer) error {
		report, err = Export(ctx, path, opts, w)
		return err
	})
	return report, err
}
