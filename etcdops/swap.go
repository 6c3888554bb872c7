package etcdops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// passed is told of each step that has just changed the disk. It is a variable for
// the tests, which kill the process there.
var passed = func(string) {}

// swapIn puts the staged folder in the place of the live one. Where there is a
// live one the two are exchanged by one rename, and the old one is then at the
// staged path; so whoever starts etcd at whatever moment finds one or the other
// and never an empty place.
func swapIn(p RestorePlan) error {
	if !exists(p.DataDir) {
		return rename(p.StagedDir, p.DataDir)
	}
	return exchange(p.StagedDir, p.DataDir)
}

// putAside renames the old data, which swapIn left at the staged path. An old
// folder that held no data is not worth keeping. It can be repeated.
func putAside(p RestorePlan) error {
	if !exists(p.StagedDir) {
		return nil
	}
	if mine, err := p.marked(p.StagedDir); err != nil || mine {
		// It is not live: somebody has moved folders by hand since.
		return errors.Join(err, fmt.Errorf("%q holds the data that should be live in %q: see what happened to those folders", p.StagedDir, p.DataDir))
	}
	if !p.HadData {
		if err := os.Remove(p.StagedDir); err == nil {
			return atomicfile.SyncDir(filepath.Dir(p.StagedDir))
		}
	}
	return rename(p.StagedDir, p.AsideDir)
}

// swapBack puts the old data where it was, wherever swapIn and putAside stopped.
// Restored data is deleted: the snapshot that it was made from is still there.
// What is deleted carries the restore's mark, or, while it is being staged, its
// name. What an undo had brought back is put where the undo found it. It can be
// repeated.
func swapBack(p RestorePlan, staging bool) error {
	if staging {
		return p.discard(p.StagedDir)
	}
	live, err := p.marked(p.DataDir)
	if err != nil {
		return err
	}
	old, err := findOld(p)
	if err != nil {
		return err
	}
	data, err := hasData(p.DataDir)
	if err != nil {
		return err
	}
	switch {
	case live && old == "":
		err = rename(p.DataDir, p.StagedDir)
	case old != "" && !exists(p.DataDir):
		err = rename(old, p.DataDir)
	case live, old != "" && !data:
		err = exchange(old, p.DataDir)
	}
	if err != nil {
		return err
	}
	for _, path := range []string{p.AsideDir, p.StagedDir} {
		ours, err := p.marked(path)
		if err != nil {
			return err
		}
		if ours {
			if err := p.discard(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// discard ends with data that is not to be live: a restore's is deleted, an
// undo's goes where it came from.
func (p RestorePlan) discard(dir string) error {
	switch {
	case !p.Undo:
		return removeAll(p, dir)
	case dir != p.StagedDir:
		return rename(dir, p.StagedDir)
	}
	return nil
}

// findOld returns where the folder that was live before lies, empty if it is
// live still or there was none.
func findOld(p RestorePlan) (string, error) {
	for _, path := range []string{p.AsideDir, p.StagedDir} {
		ours, err := p.marked(path)
		if err != nil {
			return "", err
		}
		if !ours && exists(path) {
			return path, nil
		}
	}
	return "", nil
}

// removeAll deletes a folder that the restore made. It is renamed first, so that
// one that is half deleted is never taken for data.
func removeAll(p RestorePlan, dir string) error {
	if !exists(dir) {
		return nil
	}
	doomed := filepath.Join(filepath.Dir(dir), doomedPrefix+p.ID)
	if err := os.RemoveAll(doomed); err != nil {
		return err
	}
	if err := rename(dir, doomed); err != nil {
		return err
	}
	err := os.RemoveAll(doomed)
	passed("remove " + filepath.Base(dir))
	return err
}

const doomedPrefix = atomicfile.TempPrefix + "restore-"

// removeDoomed finishes what removeAll began before a crash.
func removeDoomed(root layout.Root) error {
	doomed, err := filepath.Glob(filepath.Join(etcdDir(root), doomedPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range doomed {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %q and %q: %w", a, b, err)
	}
	passed("exchange")
	return atomicfile.SyncDir(filepath.Dir(b))
}

func rename(from, to string) error {
	// Never onto something: a rename replaces an empty folder without a word.
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // a file system that does not know the flag
		err = os.Rename(from, to)
	}
	if err != nil {
		return fmt.Errorf("rename %q to %q: %w", from, to, err)
	}
	passed("rename " + filepath.Base(to))
	return atomicfile.SyncDir(filepath.Dir(to))
}
