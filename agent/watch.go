package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// watchTrees sends an event for each change of a file in one of the folders
// and the folders below them, until ctx is done. A folder that does not exist is
// waited for; folders made later inside a watched one are watched as well.
// Temporary files of atomicfile are not reported.
//
// Links on the way to a folder are followed. A folder that is replaced, as by a
// link that is switched to another release of a fleet, is a change, and what
// stands in its place is watched from then on.
//
// Where the kernel has no watch left to give, an event comes every watchAgain
// instead, until it has: a host that cannot be told looks.
func watchTrees(ctx context.Context, log *slog.Logger, out chan<- Event, ev Event, dirs ...string) {
	t, err := openTrees(dirs)
	go func() {
		blind := false
		for ctx.Err() == nil {
			switch {
			case err == nil || errors.Is(err, fs.ErrNotExist): // what is missing is waited for where it was
				if blind {
					log.Info("files are watched again", "of", ev.Source)
				}
				blind = false
				t.forward(ctx, log, out, ev)
			default:
				if !blind {
					log.Warn("files cannot be watched and are looked at every few seconds; if it says too many open files, raise sysctl fs.inotify.max_user_instances", "of", ev.Source, "error", err)
				}
				blind = true
				sleepUntil(ctx, time.Now().Add(watchAgain))
			}
			_ = t.close() // only a second call fails
			t, err = openTrees(dirs)
			send(ctx, out, ev)
		}
		_ = t.close()
	}()
}

// trees watches folders, those below them, and the way that leads to them.
type trees struct {
	watcher *fsnotify.Watcher
	// roots are the folders themselves, behind all links.
	roots []string
	// way holds each folder and link on the way to a root, the root included.
	way map[string]bool
	// failed has what went wrong since it was read last, one error of it.
	failed chan error
}

// openTrees watches as much as there is, and says what there is not.
func openTrees(dirs []string) (*trees, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return &trees{}, fmt.Errorf("watch files: %w", err)
	}
	t := &trees{watcher: w, way: map[string]bool{}, failed: make(chan error, 1)}
	go t.hear()
	var failed []error
	for _, dir := range dirs {
		if err := t.add(dir); err != nil {
			failed = append(failed, fmt.Errorf("watch %q: %w", dir, err))
		}
	}
	return t, errors.Join(failed...)
}

// hear takes fsnotify's errors until the watcher is closed. It has to be done
// beside everything else: fsnotify (1.10.1, inotify) keeps its lock until an
// error is taken, and to watch another folder takes the same lock.
//
// A folder that was moved aside and removed has no watch any more when fsnotify
// gives it up (inotify_rm_watch(2), EINVAL): nothing is lost by that.
func (t *trees) hear() {
	for err := range t.watcher.Errors {
		if errors.Is(err, unix.EINVAL) {
			continue
		}
		select {
		case t.failed <- err:
		default: // one is to be told already
		}
	}
}

func (t *trees) close() error {
	if t.watcher == nil {
		return nil
	}
	return t.watcher.Close()
}

// maxLinks is how many links a path may lead through, as for the kernel
// (path_resolution(7)).
const maxLinks = 40

// add walks to the folder from the root of the file system. Each step is
// watched before it is looked at, so that none is replaced unnoticed.
func (t *trees) add(dir string) error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	at, rest, links := "/", strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." || name == ".." {
			at = filepath.Join(at, name)
			continue
		}
		// Who may not read a folder cannot watch it, but may pass through it.
		if err := t.watcher.Add(at); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		step := filepath.Join(at, name)
		t.way[step] = true
		info, err := os.Lstat(step)
		if err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at = step
			continue
		}
		target, err := os.Readlink(step)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%q leads through more than %d links", path, maxLinks)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	t.roots = append(t.roots, at)
	return addTree(t.watcher, at)
}

// holds tells whether the path is a root or lies below one.
func (t *trees) holds(path string) bool {
	return slices.ContainsFunc(t.roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// addTree watches dir and every folder below it. A folder that disappears
// meanwhile is no error: its parent's watch has told of that.
func addTree(w *fsnotify.Watcher, dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path != dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		if err := w.Add(path); err != nil && (path == dir || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		return nil
	})
}

// forward sends an event for each change below the roots. It returns when ctx
// is done, or when something on the way to a root was replaced.
func (t *trees) forward(ctx context.Context, log *slog.Logger, out chan<- Event, ev Event) {
	const replaced = fsnotify.Create | fsnotify.Remove | fsnotify.Rename
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-t.watcher.Events:
			switch {
			case !ok || t.way[e.Name] && e.Op&replaced != 0:
				return
			case !t.holds(e.Name) || strings.HasPrefix(filepath.Base(e.Name), atomicfile.TempPrefix):
				continue
			case e.Has(fsnotify.Create):
				watchNewFolder(log, t.watcher, e.Name)
			}
		case err := <-t.failed:
			// An overflow means that events were lost: look anyway.
			log.Warn("watching files", "error", err)
		}
		send(ctx, out, ev)
	}
}

func watchNewFolder(log *slog.Logger, w *fsnotify.Watcher, path string) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return
	}
	if err := addTree(w, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("a new folder is not watched", "folder", path, "error", err)
	}
}

// watchAgain is the pause before a watch that broke is made again. What cannot
// be watched is noticed within ten seconds, as what the kernel does not announce.
const watchAgain = 9 * time.Second

// watchSignals turns the change signals of a domain into events until ctx is
// done. A watch that breaks is made again, and counts as a change, since some
// may have been missed. Only the first watch's error is returned.
func watchSignals(ctx context.Context, log *slog.Logger, watch func(context.Context) (<-chan struct{}, error), out chan<- Event, ev Event) error {
	signals, err := watch(ctx)
	if err != nil {
		return err
	}
	go func() {
		for {
			forwardSignals(ctx, signals, out, ev)
			if ctx.Err() != nil {
				return
			}
			for {
				log.Warn("a watch broke and is made again; until then drift is noticed late", "watch", ev.Source)
				if !sleepUntil(ctx, time.Now().Add(watchAgain)) {
					return
				}
				if signals, err = watch(ctx); err == nil {
					break
				}
				log.Error("the watch cannot be made", "watch", ev.Source, "error", err)
			}
			send(ctx, out, ev)
		}
	}()
	return nil
}

// forwardSignals sends an event for each signal until ctx is done or the
// channel closes.
func forwardSignals(ctx context.Context, signals <-chan struct{}, out chan<- Event, ev Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-signals:
			if !ok {
				return
			}
			send(ctx, out, ev)
		}
	}
}

// send hands an event to the loop unless ctx is done first.
func send(ctx context.Context, out chan<- Event, ev Event) {
	select {
	case out <- ev:
	case <-ctx.Done():
	}
}
