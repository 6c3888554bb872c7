// Package atomicfile writes files so that a crash or a power cut at any point
// leaves either the whole old content or the whole new one, on disk and not
// only in memory.
//
// Every write goes to a temporary file in the same folder (owner and mode are
// set on the open file before the content arrives), is synced, renamed over
// the target, and the folder is synced. Leftover temporary files begin with
// [TempPrefix] and can be deleted at any time.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// TempPrefix begins the names of temporary files and folders.
const TempPrefix = ".nodeagent-tmp-"

// Write replaces the file at path with content and mode. The folder must
// exist. The file belongs to the calling user.
func Write(path string, content []byte, mode fs.FileMode) error {
	return WriteFrom(path, mode, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// WriteFrom replaces the file at path with what fill writes. If fill or any
// later step fails the old file stays and the temporary file is removed.
func WriteFrom(path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %q: %w", path, err), ignoreClosed(f.Close()), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Symlink makes link point to target, replacing a link that is there, by one
// rename. It then syncs the folder of the link.
func Symlink(target, link string) error {
	dir := filepath.Dir(link)
	staged, err := stageLink(target, dir)
	if err != nil {
		return fmt.Errorf("link %q: %w", link, err)
	}
	if err := os.Rename(staged, link); err != nil {
		return errors.Join(fmt.Errorf("link %q: %w", link, err), os.Remove(staged))
	}
	return SyncDir(dir)
}

// stageLink makes a link under a temporary name that is free.
func stageLink(target, dir string) (string, error) {
	for {
		path := filepath.Join(dir, TempPrefix+strconv.FormatUint(rand.Uint64(), 36))
		if err := os.Symlink(target, path); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
}

// Remove deletes a file durably. A file that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes a folder and the missing ones above it with the mode (not
// reduced by the umask) and syncs each folder in which one was made. Folders
// that exist keep their mode. Of several goroutines that need a folder, none goes
// on before it is synced.
func MkdirAll(path string, mode fs.FileMode) error {
	making.Lock()
	defer making.Unlock()
	return mkdirAll(path, mode)
}

var making sync.Mutex

func mkdirAll(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("make folder %q: a file is in its place", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := mkdirAll(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes renames, creations and deletions in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
