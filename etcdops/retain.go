package etcdops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Decision is what retention does with one snapshot, and why.
type Decision struct {
	Entry  Entry  `json:"entry"`
	Reason string `json:"reason"`
}

// Retain decides which snapshots stay: of each cluster and host the newest keep
// good ones (at least one). It is pure.
//
// It errs on the side of keeping. A file without a manifest is somebody else's
// and stays. One that is dated in the future stays and does not count, lest a
// clock that was wrong once push out every real snapshot. A damaged one goes
// only when a newer good one is there.
func Retain(entries []Entry, keep int, now time.Time) (kept, dropped []Decision) {
	keep = max(keep, 1)
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b Entry) int {
		return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.Path, a.Path))
	})
	type source struct{ cluster, host string }
	seen := map[source]int{} // good ones so far, newest first
	for _, e := range sorted {
		stay := func(format string, args ...any) { kept = append(kept, Decision{e, fmt.Sprintf(format, args...)}) }
		drop := func(format string, args ...any) { dropped = append(dropped, Decision{e, fmt.Sprintf(format, args...)}) }
		if e.Manifest == nil {
			stay("it was not taken by nodeagent, or its manifest is not readable")
			continue
		}
		from := source{e.Manifest.Cluster, e.Manifest.Host}
		switch {
		case e.Ahead(now):
			stay("it is dated in the future, %s", e.Taken.UTC().Format(time.RFC3339))
		case e.Damage != "" && seen[from] == 0:
			stay("it is damaged (%s), but no newer one is good", e.Damage)
		case e.Damage != "":
			drop("it is damaged: %s", e.Damage)
		case seen[from] < keep:
			seen[from]++
			stay("it is number %d of the %d newest", seen[from], keep)
		default:
			drop("there are %d newer ones", keep)
		}
	}
	return kept, dropped
}

// Prune carries out Retain on the folder and returns what was deleted. It is
// refused with ErrBusy while a save runs there.
func Prune(ctx context.Context, dir string, keep int, now time.Time) (deleted []Decision, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prune snapshots: %w", err)
		}
	}()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	release, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	entries, err := List(dir)
	if err != nil {
		return nil, err
	}
	_, dropped := Retain(entries, keep, now)
	for _, d := range dropped {
		if err := ctx.Err(); err != nil {
			return deleted, err
		}
		// The snapshot first: a manifest alone is cleaned up by the next save,
		// a snapshot alone would be taken for somebody else's.
		if err := atomicfile.Remove(d.Entry.Path); err != nil {
			return deleted, err
		}
		if err := atomicfile.Remove(manifestPath(d.Entry.Path)); err != nil {
			return deleted, err
		}
		deleted = append(deleted, d)
	}
	return deleted, nil
}
