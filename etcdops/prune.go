package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Prune carries out Retain on the folder and returns what stays and what was
// deleted. It is refused with ErrBusy while a save runs there.
func Prune(ctx context.Context, dir string, r hosts.Retention, now time.Time) (kept, deleted []Decision, err error) {
	return PruneHolding(ctx, dir, r, now, func([]Entry) map[string]string { return nil })
}

// Hold keeps what is dropped and held for another reason, which is given by path.
// It is pure.
func Hold(kept, dropped []Decision, held map[string]string) (stays, goes []Decision) {
	stays = slices.Clone(kept)
	for _, d := range dropped {
		if why, ok := held[d.Entry.Path]; ok {
			stays = append(stays, Decision{d.Entry, "it is " + why + "; else it would go: " + d.Reason})
			continue
		}
		goes = append(goes, d)
	}
	return stays, goes
}

// PruneHolding is Prune that leaves what is held for other reasons than
// retention's; see Hold.
func PruneHolding(ctx context.Context, dir string, r hosts.Retention, now time.Time, held func([]Entry) map[string]string) (kept, deleted []Decision, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prune snapshots: %w", err)
		}
	}()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	release, err := Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	entries, err := List(dir)
	if err != nil {
		return nil, nil, err
	}
	kept, dropped := Retain(entries, r, now)
	kept, dropped = Hold(kept, dropped, held(entries))
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
