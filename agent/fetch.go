package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// SplitRef takes what people write for a snapshot apart: PLACE:NAME, where NAME
// may be "latest". What has no place before a colon is a file, and so is what has
// a slash before it: "./a:b".
func SplitRef(ref string) (place, name string, ok bool) {
	place, name, ok = strings.Cut(ref, ":")
	if !ok || place == "" || name == "" || strings.Contains(place, "/") {
		return "", "", false
	}
	return place, name, true
}

// FetchSnapshot makes what people write for a snapshot a file on this host. It is
// [Copies.Fetch] for the host's own places.
func (h *Host) FetchSnapshot(ctx context.Context, ref string, progress func(done, total int64)) (path string, done func() error, err error) {
	return h.Copies().Fetch(ctx, ref, progress)
}

// Fetch makes what people write for a snapshot (see SplitRef) the path of a file:
// a file's own, or for one of a copy that of a file that is downloaded for this,
// whole and with its manifest beside it. done deletes what was downloaded, and
// nothing else; until then no other nodeagent does. What a crash leaves the next
// Fetch deletes. The progress is called with the bytes downloaded and in all.
func (c *Copies) Fetch(ctx context.Context, ref string, progress func(done, total int64)) (path string, done func() error, err error) {
	nothing := func() error { return nil }
	place, name, ok := SplitRef(ref)
	if !ok {
		return ref, nothing, nil
	}
	if place == hosts.LocalCopy {
		path, err = c.local(name)
		return path, nothing, err
	}
	entry, at, err := c.Find(ctx, place, name)
	if err != nil {
		return "", nil, err
	}
	defer at.Close()
	dir, done, err := c.fetchFolder()
	if err != nil {
		return "", nil, err
	}
	path, err = store.Fetch(ctx, at.Store, entry, dir, notNil(progress))
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("%s: %w", place, err), done())
	}
	return path, done, nil
}

// Find picks a snapshot of a copy by its name, or the newest good one.
func (c *Copies) Find(ctx context.Context, place, name string) (etcdops.Entry, store.Place, error) {
	at, err := c.Open(ctx, place)
	if err != nil {
		return etcdops.Entry{}, at, err
	}
	entry, err := store.Find(ctx, at.Store, name, c.Owner(), time.Now())
	if err != nil {
		err = fmt.Errorf("%s: %w", place, err)
	}
	return entry, at, err
}

// local is the path of a snapshot in the spec's folder.
func (c *Copies) local(name string) (string, error) {
	dir := c.spec.Snapshots.Destination
	if name != store.Latest {
		return filepath.Join(dir, name), nil
	}
	entries, err := etcdops.List(dir)
	if err != nil {
		return "", err
	}
	newest, ok := newestOwn(entries, c.spec, time.Now())
	if !ok {
		return "", fmt.Errorf("%s has no good snapshot of host %s: `nodeagent snapshot list` shows all that there are", dir, c.spec.Name)
	}
	return newest.Path, nil
}

// fetchFolder makes a folder for one download, and deletes those whose process is
// gone. A process has its folder locked for as long as it uses it.
func (c *Copies) fetchFolder() (dir string, done func() error, err error) {
	all := filepath.Join(c.root.Scratch(), "fetched")
	if c.root == "" && !exists(c.root.State()) {
		all = filepath.Join(os.TempDir(), fmt.Sprintf("nodeagent-%d", os.Geteuid())) // no host of ours
	}
	if err := atomicfile.MkdirAll(all, 0o700); err != nil {
		return "", nil, err
	}
	gate, err := flock(all, unix.LOCK_EX) // nobody looks for dead ones while ours is made
	if err != nil {
		return "", nil, err
	}
	defer gate.Close()
	if err := cleanFetched(all); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(all, "snapshot-"); err != nil {
		return "", nil, err
	}
	held, err := flock(dir, unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), held.Close()) }, nil
}

// cleanFetched deletes the folders of processes that are gone.
func cleanFetched(all string) error {
	folders, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		dir := filepath.Join(all, folder.Name())
		held, err := flock(dir, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || isMissing(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(dir), held.Close()); err != nil {
			return fmt.Errorf("clean up after a download that was interrupted: %w", err)
		}
	}
	return nil
}

// flock opens and locks a folder. Closing it frees it, and so does the end of the
// process.
func flock(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	return f, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func notNil(progress func(done, total int64)) func(done, total int64) {
	if progress == nil {
		return func(int64, int64) {}
	}
	return progress
}

// FetchTo downloads a snapshot of a place into a folder (by default the spec's).
func (c *Copies) FetchTo(ctx context.Context, place, name, dir string, progress func(done, total int64)) (string, etcdops.Entry, error) {
	if dir == "" {
		dir = c.spec.Snapshots.Destination
	}
	entry, at, err := c.Find(ctx, place, name)
	if err != nil {
		return "", entry, err
	}
	defer at.Close()
	path, err := store.Fetch(ctx, at.Store, entry, dir, notNil(progress))
	if err != nil {
		err = fmt.Errorf("%s: %w", place, err)
	}
	return path, entry, err
}
