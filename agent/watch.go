package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// watchTrees sends an event for each change of a file in one of the folders
// and the folders below them, until ctx is done. A folder that does not exist
// is an error; folders made later inside a watched one are watched as well.
// Temporary files of atomicfile are not reported.
func watchTrees(ctx context.Context, log *slog.Logger, out chan<- Event, ev Event, dirs ...string) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	for _, dir := range dirs {
		if err := addTree(w, dir); err != nil {
			return errors.Join(fmt.Errorf("watch %q: %w", dir, err), w.Close())
		}
	}
	go func() {
		defer w.Close()
		forward(ctx, log, w, out, ev)
	}()
	return nil
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

func forward(ctx context.Context, log *slog.Logger, w *fsnotify.Watcher, out chan<- Event, ev Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if strings.HasPrefix(filepath.Base(e.Name), atomicfile.TempPrefix) {
				continue
			}
			if e.Has(fsnotify.Create) {
				watchNewFolder(log, w, e.Name)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
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

// watchAgain is the pause before a watch that broke is made again.
const watchAgain = 5 * time.Second

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
