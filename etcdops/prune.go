package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Prune carries out Retain on the folder and returns what stays and what was
// deleted. It is refused with ErrBusy while a save runs there.
func Prune(ctx context.Context, dir string, r hosts.Retention, now time.Time) (kept, deleted []Decision, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prune snapshots: %w", err)
		}
	}()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	release, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	entries, err := List(dir)
	if err != nil {
		return nil, nil, err
	}
	kept, dropped := Retain(entries, r, now)
	for _, d := range dropped {
		if err := ctx.Err(); err != nil {
			return kept, deleted, err
		}
		// The snapshot first: a manifest alone is cleaned up by the next save,
		// a snapshot alone would be taken for somebody else's.
		if err := atomicfile.Remove(d.Entry.Path); err != nil {
			return kept, deleted, err
		}
		if err := atomicfile.Remove(manifestPath(d.Entry.Path)); err != nil {
			return kept, deleted, err
		}
		deleted = append(deleted, d)
	}
	return kept, deleted, nil
}
