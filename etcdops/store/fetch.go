package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Latest is the name that stands for the newest good snapshot.
const Latest = "latest"

// Find picks a snapshot of a store by its name, with its folders or without, or
// the newest good one of the cluster, whichever of its hosts took it: every member
// of etcd has the same data, and all hosts that restore must pick the same one.
func Find(ctx context.Context, s Store, name string, owner Owner, now time.Time) (etcdops.Entry, error) {
	if name == Latest {
		return newest(ctx, s, owner, now)
	}
	if strings.Contains(name, "/") {
		return findIn(ctx, s, path.Dir(name), name)
	}
	entry, err := findIn(ctx, s, owner.Dir(), name)
	if errors.Is(err, ErrNotFound) { // of another host, or another cluster
		entry, err = findIn(ctx, s, "", name)
	}
	return entry, err
}

func findIn(ctx context.Context, s Store, dir, name string) (etcdops.Entry, error) {
	entries, err := Snapshots(ctx, s, dir)
	if err != nil {
		return etcdops.Entry{}, err
	}
	i := slices.IndexFunc(entries, func(e etcdops.Entry) bool { return e.Path == name || path.Base(e.Path) == name })
	if i < 0 {
		return etcdops.Entry{}, fmt.Errorf("%w: no snapshot %s there", ErrNotFound, name)
	}
	return entries[i], nil
}

func newest(ctx context.Context, s Store, owner Owner, now time.Time) (etcdops.Entry, error) {
	entries, err := Snapshots(ctx, s, owner.Cluster)
	if err != nil {
		return etcdops.Entry{}, err
	}
	entries = slices.DeleteFunc(entries, func(e etcdops.Entry) bool { return e.Ahead(now) })
	if entry, ok := etcdops.Newest(entries); ok {
		return entry, nil
	}
	return etcdops.Entry{}, fmt.Errorf("%w: no good snapshot of cluster %s there", ErrNotFound, owner.Cluster)
}

// Fetch brings a snapshot of the store into a folder, with its manifest, and
// returns its path. It appears there when it is whole and as its manifest says;
// one that is there already is not fetched again. A download that breaks off goes
// on where it was, as long as each attempt brings something.
func Fetch(ctx context.Context, s Store, e etcdops.Entry, dir string, progress func(done, total int64)) (string, error) {
	if e.Manifest == nil || e.Damage != "" {
		why := e.Damage
		if why == "" {
			why = "it has no manifest there, so that nobody can tell whether it is whole"
		}
		return "", fmt.Errorf("fetch %s: %s", e.Path, why)
	}
	content, err := readAll(ctx, s, etcdops.ManifestName(e.Path))
	if err != nil {
		return "", fmt.Errorf("fetch the manifest: %w", err)
	}
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	to := filepath.Join(dir, path.Base(e.Path))
	meta := Meta{Size: e.Manifest.Stored.Size, SHA256: e.Manifest.Stored.SHA256}
	there, err := isThere(ctx, to, meta)
	if err != nil {
		return "", err
	}
	// The manifest first, as a save does it: one without a snapshot is cleaned up.
	if err := atomicfile.Write(etcdops.ManifestName(to), content, 0o600); err != nil {
		return "", err
	}
	if !there {
		err = download(ctx, s, e.Path, meta, to, progress)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("fetch %s: %w", e.Path, err), atomicfile.Remove(etcdops.ManifestName(to)))
	}
	return to, nil
}

// isThere tells whether the file is there, whole. Another one of that name is
// nothing to write over.
func isThere(ctx context.Context, file string, meta Meta) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = copyChecked(ctx, io.Discard, f, meta, func(int64) {})
	if errors.Is(err, ErrChanged) {
		return false, fmt.Errorf("%q is there and is another one: %w; move it away, or fetch into another folder", file, err)
	}
	return err == nil, err
}

// attempts is how often a download that brings nothing is tried.
const attempts = 4

func download(ctx context.Context, s Store, name string, meta Meta, to string, progress func(done, total int64)) error {
	return atomicfile.WriteFrom(to, 0o600, func(w io.Writer) error {
		sum := newSum(w)
		for failed := 0; ; {
			before := sum.n
			err := sum.readFrom(ctx, s, name, meta.Size, progress)
			if err == nil {
				return meta.compare(sum.n, sum.hex())
			}
			if sum.n > before {
				failed = 0
			}
			if failed++; failed >= attempts || ctx.Err() != nil || sum.n > meta.Size || !passes(err) {
				return err
			}
			if !wait(ctx, backoff(failed)) {
				return errors.Join(err, ctx.Err())
			}
		}
	})
}

// passes tells whether trying again may help.
func passes(err error) bool {
	for _, lasting := range []error{ErrNotFound, ErrDenied, ErrNoStore, ErrClock, ErrRubbish, fs.ErrPermission} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// backoff is the pause after a number of failures in a row, up to ten seconds;
// hosts that failed together do not come back together.
func backoff(failed int) time.Duration {
	pause := min(10*time.Second, 250*time.Millisecond<<min(failed, 10))
	return pause/2 + rand.N(pause/2)
}

// wait tells whether the time passed before ctx was done.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
