package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

// errNoSnapshot is the error of a drill without anything to drill.
var errNoSnapshot = errors.New("there is no good snapshot yet")

// kept is the newest snapshot of one place.
type kept struct {
	ref   string // a file, or PLACE:NAME
	taken time.Time
}

// isRef tells PLACE:NAME from a file.
func isRef(ref string) bool {
	_, _, ok := SplitRef(ref)
	return ok
}

// newestToDrill is the newest good snapshot of all places. One that cannot be asked
// is left out: status tells of that.
func (h *Host) newestToDrill(ctx context.Context) (string, error) {
	spec, now := h.Spec(), time.Now()
	var local kept
	entries, err := etcdops.List(spec.Snapshots.Destination)
	if newest, ok := newestOwn(entries, spec, now); ok {
		local = kept{newest.Path, newest.Taken}
	}
	failed := []error{err}
	var copies []kept
	places := h.Copies()
	for _, name := range places.Names() {
		newest, err := newestThere(ctx, places, name, now)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		copies = append(copies, newest)
	}
	picked := pickNewest(local, copies, now)
	if picked == "" {
		return "", errors.Join(append(failed, fmt.Errorf("%w: take one with `nodeagent snapshot`", errNoSnapshot))...)
	}
	for _, err := range failed {
		if err != nil {
			h.log.Warn("a place is left out of the drill", "error", err)
		}
	}
	return picked, nil
}

// newestThere is the newest good snapshot of a copy: the host's own, or the
// cluster's where one host takes them for all.
func newestThere(ctx context.Context, places *Copies, name string, now time.Time) (kept, error) {
	place, err := places.Open(ctx, name)
	if err != nil {
		return kept{}, err
	}
	dir := places.Owner().Dir()
	if places.spec.Snapshots.By == hosts.ByOne {
		dir = places.Owner().Cluster
	}
	entries, err := store.Snapshots(ctx, place.Store, dir)
	if err != nil {
		return kept{}, err
	}
	entries = slices.DeleteFunc(entries, func(e etcdops.Entry) bool { return e.Ahead(now) })
	newest, ok := etcdops.Newest(entries)
	if !ok {
		return kept{}, nil
	}
	return kept{name + ":" + newest.Path, newest.Taken}, nil
}

// pickNewest picks what is drilled: the newest, and of several places that have it
// a copy rather than the host's own folder, for that is what is left of it when the
// host is lost; another copy in each week. It is pure; empty is none.
func pickNewest(local kept, copies []kept, now time.Time) string {
	best := local
	var same []string
	for _, c := range copies {
		switch {
		case c.ref == "" || c.taken.Before(best.taken):
		case c.taken.After(best.taken):
			best, same = c, []string{c.ref}
		default:
			same = append(same, c.ref)
		}
	}
	if len(same) == 0 {
		return best.ref
	}
	year, week := now.ISOWeek()
	return same[(year*53+week)%len(same)]
}
