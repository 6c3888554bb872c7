package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// The names in a certificate's or key's folder.
const (
	currentLink      = "current"
	previousFolder   = "previous"
	generationPrefix = "generation-"
)

// disk writes generations. Every write that a crash could come after is told
// to step, which is nil except in tests that kill the process there.
type disk struct {
	step func(name string)
}

func (d disk) did(name string) {
	if d.step != nil {
		d.step(name)
	}
}

// file is one file of a generation.
type file struct {
	name    string
	content []byte
	mode    fs.FileMode
}

// publish makes files the generation in use of dir. The order is the point:
// the new generation is complete and synced before the link to it is renamed
// into place; the old one is removed only then. Components watch the old files
// with inotify, through the link: only their removal tells them to look again,
// so no hard link to them may stay. What goes into "previous" are copies.
//
// check is called with the new folder before it is used; when it fails nothing
// has changed. keep tells whether the generation in use is worth keeping.
func (d disk) publish(dir string, files []file, keep bool, check func(generation string) error) (err error) {
	if err := makeFolder(dir); err != nil {
		return err
	}
	d.did("folder made")
	generation, err := os.MkdirTemp(dir, generationPrefix)
	if err != nil {
		return fmt.Errorf("make generation: %w", err)
	}
	published := false
	defer func() {
		if !published {
			err = errors.Join(err, os.RemoveAll(generation))
		}
	}()
	d.did("generation folder made")
	if err := d.fill(generation, files); err != nil {
		return err
	}
	if err := check(generation); err != nil {
		return fmt.Errorf("check new generation %q: %w", generation, err)
	}
	if keep {
		if err := d.keepPrevious(dir); err != nil {
			return fmt.Errorf("keep previous generation: %w", err)
		}
	}
	if err := clearWay(dir); err != nil {
		return err
	}
	// From here the generation may be in use: a failed sync does not undo it.
	published = true
	if err := atomicfile.Symlink(filepath.Base(generation), filepath.Join(dir, currentLink)); err != nil {
		return err
	}
	d.did("link switched")
	return d.clean(dir)
}

// makeFolder makes dir, for fill to sync, and durably the folders above it.
func makeFolder(dir string) error {
	if err := atomicfile.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, 0o700) // whatever the umask
}

// fill writes a generation's files and syncs them, the folder and the two above
// it: what they are, and that they are there, is on disk when it returns.
func (d disk) fill(generation string, files []file) (err error) {
	var unsynced []*os.File
	defer func() {
		for _, f := range unsynced {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, f := range files {
		written, err := d.draft(filepath.Join(generation, f.name), f.content, f.mode)
		if written != nil {
			unsynced = append(unsynced, written)
		}
		if err != nil {
			return err
		}
	}
	dir := filepath.Dir(generation)
	for _, folder := range []string{generation, dir, filepath.Dir(dir)} {
		opened, err := os.Open(folder)
		if err != nil {
			return err
		}
		unsynced = append(unsynced, opened)
	}
	if err := syncAll(unsynced); err != nil {
		return err
	}
	d.did("generation synced")
	return nil
}

// syncAll syncs files and folders, all at once: nobody uses them yet, so their
// order does not matter, and a file system writes them to its journal together.
// They are synced through what they were written through: where writing to the
// disk fails before, only that is sure to hear of it.
func syncAll(files []*os.File) error {
	failed := make([]error, len(files))
	var running sync.WaitGroup
	for i, f := range files {
		running.Go(func() { failed[i] = f.Sync() })
	}
	running.Wait()
	return errors.Join(failed...)
}

// write makes a file that must not exist yet, and syncs it.
func (d disk) write(path string, content []byte, mode fs.FileMode) error {
	f, err := d.draft(path, content, mode)
	if f == nil {
		return err
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// draft makes a file that must not exist yet, in a folder that nobody uses
// yet. The mode is set on the open file before the content arrives. The file is
// the caller's to sync and to close, also after an error; it is nil where none
// was made.
func (d disk) draft(path string, content []byte, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(mode); err != nil {
		return f, err
	}
	d.did("file made")
	if _, err := f.Write(content); err != nil {
		return f, err
	}
	d.did("file written")
	return f, nil
}

// keepPrevious copies the generation in use into the folder "previous". It runs
// before the switch: killed in the middle, the generation that the copy is of
// is still in use.
func (d disk) keepPrevious(dir string) error {
	generation, err := current(dir)
	if err != nil {
		return err
	}
	staged, err := os.MkdirTemp(dir, atomicfile.TempPrefix)
	if err != nil {
		return err
	}
	var files []file
	entries, err := os.ReadDir(generation)
	if err != nil {
		return err
	}
	for _, e := range entries {
		r, err := readFile(filepath.Join(generation, e.Name()))
		if err != nil {
			return err
		}
		files = append(files, file{e.Name(), r.content, r.mode})
	}
	if err := d.fill(staged, files); err != nil {
		return err
	}
	previous := filepath.Join(dir, previousFolder)
	if err := moveAway(dir, previous); err != nil {
		return err
	}
	d.did("older previous moved away")
	if err := os.Rename(staged, previous); err != nil {
		return err
	}
	d.did("previous kept")
	return atomicfile.SyncDir(dir)
}

// moveAway renames path, where it exists, into a temporary folder of dir, for
// clean to remove.
func moveAway(dir, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	tmp, err := os.MkdirTemp(dir, atomicfile.TempPrefix)
	if err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(tmp, filepath.Base(path)))
}

// clearWay moves away what is in the place of the link "current" and is none:
// a folder there could not be renamed over.
func clearWay(dir string) error {
	link := filepath.Join(dir, currentLink)
	info, err := os.Lstat(link)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return nil // no error: what matters is met again when the link is made
	}
	return moveAway(dir, link)
}

// clean removes what an interrupted run, or the switch before it, left in dir.
func (d disk) clean(dir string) error {
	names, err := leftovers(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
		d.did("leftover removed")
	}
	return atomicfile.SyncDir(dir)
}

// remove deletes dir with everything that this package makes in it, the link
// first, so that it never leads to half a generation. Other files stay, and
// with them the folder.
func (d disk) remove(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := clearWay(dir); err != nil {
		return err
	}
	if err := atomicfile.Remove(filepath.Join(dir, currentLink)); err != nil {
		return err
	}
	d.did("link removed")
	for _, note := range []string{refusedFile, unfitFile} {
		if err := atomicfile.Remove(filepath.Join(dir, note)); err != nil {
			return err
		}
	}
	if err := moveAway(dir, filepath.Join(dir, previousFolder)); err != nil {
		return err
	}
	if err := d.clean(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	return atomicfile.Remove(dir)
}

// current returns the folder of the generation in use. The error is
// fs.ErrNotExist where there is no link.
func current(dir string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, currentLink))
	if err != nil {
		return "", err
	}
	if filepath.Base(target) != target || !strings.HasPrefix(target, generationPrefix) {
		return "", errors.New("is a link to something else than a generation")
	}
	return filepath.Join(dir, target), nil
}

// leftovers lists generations in dir that are not in use, and temporary files.
func leftovers(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	used, _ := current(dir) // a link that is damaged uses none
	var names []string
	for _, e := range entries {
		name := e.Name()
		old := strings.HasPrefix(name, generationPrefix) && filepath.Join(dir, name) != used
		if old || strings.HasPrefix(name, atomicfile.TempPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}
