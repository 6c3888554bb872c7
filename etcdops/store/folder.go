package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Folder is a store in a folder, such as one on a share that is mounted. It does
// not make the folder itself: where a share is not mounted, it would fill the
// disk below.
type Folder struct {
	dir string
	// stall is how long an operation may make no progress: a share whose server
	// is away lets its callers wait for ever.
	stall time.Duration
}

// NewFolder is the store in the folder. It looks at nothing.
func NewFolder(dir string) *Folder { return &Folder{dir: dir, stall: stallPatience} }

func (f *Folder) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// List implements Store.
func (f *Folder) List(ctx context.Context, dir string) (objects []Object, err error) {
	err = f.do(ctx, "list "+f.path(dir), func(ctx context.Context, alive func()) error {
		return f.walk(dir, func(path string, info fs.FileInfo) error {
			alive()
			if strings.HasPrefix(info.Name(), atomicfile.TempPrefix) {
				return nil
			}
			name, err := filepath.Rel(f.dir, path)
			objects = append(objects, Object{Name: filepath.ToSlash(name), Size: info.Size(), Modified: info.ModTime()})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return objects, nil
}

// walk calls visit for each regular file of a folder of the store, in order.
func (f *Folder) walk(dir string, visit func(path string, info fs.FileInfo) error) error {
	if err := f.there(); err != nil {
		return err
	}
	return filepath.WalkDir(f.path(dir), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile, or a folder that nothing was put into
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return visit(path, info)
	})
}

// there is an error where the folder itself is missing.
func (f *Folder) there() error {
	info, err := os.Stat(f.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no folder %q: mount the share that it is on, or make it (nodeagent does not, lest it fills the disk below a share that is not mounted)", ErrNoStore, f.dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: %q is no folder", ErrNoStore, f.dir)
	}
	return nil
}

// Put implements Store.
func (f *Folder) Put(ctx context.Context, name string, body io.ReaderAt, meta Meta, progress func(done, total int64)) error {
	return f.do(ctx, "write "+f.path(name), func(ctx context.Context, alive func()) error {
		if err := f.there(); err != nil {
			return err
		}
		path := f.path(name)
		if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return atomicfile.WriteFrom(path, 0o600, func(w io.Writer) error {
			return copyChecked(ctx, w, body, meta, func(done int64) {
				alive()
				progress(done, meta.Size)
			})
		})
	})
}

// copyChecked copies what meta says, and nothing else, to w.
func copyChecked(ctx context.Context, w io.Writer, body io.ReaderAt, meta Meta, wrote func(done int64)) error {
	sum, buffer := sha256.New(), make([]byte, copyBuffer)
	in := io.NewSectionReader(body, 0, meta.Size+1) // one more: it must not be there
	var done int64
	for {
		n, err := in.Read(buffer)
		if err := ctx.Err(); err != nil {
			return err
		}
		sum.Write(buffer[:n])
		if _, err := w.Write(buffer[:n]); err != nil {
			return err
		}
		done += int64(n)
		wrote(min(done, meta.Size))
		if errors.Is(err, io.EOF) {
			return meta.compare(done, hex.EncodeToString(sum.Sum(nil)))
		}
		if err != nil {
			return err
		}
	}
}

// compare is an error where what was read is not what meta says.
func (m Meta) compare(size int64, sum string) error {
	switch {
	case size != m.Size:
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, size, m.Size)
	case sum != m.SHA256:
		return fmt.Errorf("%w: its SHA-256 is %s, not %s", ErrChanged, sum, m.SHA256)
	}
	return nil
}

// Get implements Store.
func (f *Folder) Get(ctx context.Context, name string, from int64) (r io.ReadCloser, err error) {
	err = f.do(ctx, "read "+f.path(name), func(context.Context, func()) error {
		if err := f.there(); err != nil {
			return err
		}
		file, err := os.Open(f.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		if err != nil {
			return err
		}
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return errors.Join(err, file.Close())
		}
		r = &folderReader{ctx: ctx, folder: f, file: file}
		return nil
	})
	return r, err
}

// folderReader reads a file of a share that may hang.
type folderReader struct {
	ctx    context.Context
	folder *Folder
	file   *os.File
	stuck  bool
}

func (r *folderReader) Read(p []byte) (n int, err error) {
	// A buffer of its own: one that hangs may still write into it later.
	buffer := make([]byte, min(len(p), copyBuffer))
	var got int
	var eof bool
	err = r.folder.do(r.ctx, "read "+r.file.Name(), func(context.Context, func()) (err error) {
		got, err = r.file.Read(buffer)
		if errors.Is(err, io.EOF) {
			eof, err = true, nil
		}
		return err
	})
	if err != nil {
		r.stuck = errors.Is(err, ErrStalled)
		return 0, err
	}
	if eof {
		return 0, io.EOF
	}
	return copy(p, buffer[:got]), nil
}

func (r *folderReader) Close() error {
	if r.stuck {
		go r.file.Close()
		return nil
	}
	return r.file.Close()
}

// Has implements Store. A file's hash is known only once it is read.
func (f *Folder) Has(ctx context.Context, name string, meta Meta) (has bool, err error) {
	err = f.do(ctx, "look at "+f.path(name), func(ctx context.Context, alive func()) error {
		if err := f.there(); err != nil {
			return err
		}
		file, err := os.Open(f.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = copyChecked(ctx, io.Discard, file, meta, func(int64) { alive() })
		has = err == nil
		if errors.Is(err, ErrChanged) {
			err = nil
		}
		return errors.Join(err, file.Close())
	})
	return has && err == nil, err
}

// Delete implements Store.
func (f *Folder) Delete(ctx context.Context, name string) error {
	return f.do(ctx, "delete "+f.path(name), func(context.Context, func()) error {
		if err := f.there(); err != nil {
			return err
		}
		err := atomicfile.Remove(f.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // its folder is gone, too
		}
		if errors.Is(err, syscall.EPERM) && os.Geteuid() == 0 {
			return &KeptError{Name: name} // immutable, or on a share that keeps files for a time
		}
		return err
	})
}

// Tidy implements Store.
func (f *Folder) Tidy(ctx context.Context, dir string, _ []string) error {
	return f.do(ctx, "clean up "+f.path(dir), func(ctx context.Context, alive func()) error {
		return f.walk(dir, func(path string, info fs.FileInfo) error {
			alive()
			if !strings.HasPrefix(info.Name(), atomicfile.TempPrefix) {
				return nil
			}
			return atomicfile.Remove(path)
		})
	})
}

// do runs an operation, which calls alive whenever it has come further. Where
// it does not for too long, it is given up: whatever hangs in the kernel ends
// when the share is back, and then finds nobody who waits.
func (f *Folder) do(ctx context.Context, what string, operation func(ctx context.Context, alive func()) error) error {
	working, giveUp := context.WithCancel(ctx)
	defer giveUp()
	signs, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- operation(working, func() {
			select {
			case signs <- struct{}{}:
			default:
			}
		})
	}()
	timer := time.NewTimer(f.stall)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return explainFolder(what, err)
		case <-signs:
			timer.Reset(f.stall)
		case <-timer.C:
			return fmt.Errorf("%s: %w for %s: is the server of the share away?", what, ErrStalled, f.stall)
		case <-ctx.Done():
			select { // it may have ended because of that
			case err := <-done:
				return explainFolder(what, err)
			case <-time.After(time.Second):
				return fmt.Errorf("%s: %w", what, ctx.Err())
			}
		}
	}
}

func explainFolder(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w: %w: free some space, or keep fewer snapshots there", what, ErrFull, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: %w", what, ErrDenied, err)
	}
	if kept := (*KeptError)(nil); errors.As(err, &kept) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
