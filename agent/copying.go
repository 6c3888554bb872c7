package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

// CopyOptions says how snapshots are brought to further places.
type CopyOptions struct {
	// Only are the names of the places; none is all.
	Only []string
	// AcceptEmpty, KeepAll and BringNone are those of store.Copying.
	AcceptEmpty, KeepAll, BringNone bool
	// Progress, if set, is called with the bytes of one snapshot brought to a
	// place, and in all.
	Progress func(place string, done, total int64)
}

// memory is the folder where the host keeps what it knows of places.
func (c *Copies) memory() string { return filepath.Join(c.root.State(), "copies") }

// Copy brings the host's snapshots to further places and prunes there, one place
// after the other, so that memory does not grow with their number. A place that
// fails keeps no other back. The error names each that did.
func (c *Copies) Copy(ctx context.Context, opts CopyOptions) ([]store.Result, error) {
	names := opts.Only
	if len(names) == 0 {
		names = c.Names()
	}
	var failed []error
	results := []store.Result{}
	for _, name := range names {
		result, err := c.copyTo(ctx, name, opts)
		results = append(results, result)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return results, errors.Join(failed...)
}

func (c *Copies) copyTo(ctx context.Context, name string, opts CopyOptions) (store.Result, error) {
	now := time.Now()
	place, err := c.Open(ctx, name)
	if err != nil {
		result := store.Result{Place: name, Where: place.Where, Brought: []string{}, Deleted: []etcdops.Decision{}, Error: err.Error()}
		if place.Name != "" { // it is one of the spec
			err = errors.Join(err, store.Failed(c.memory(), place, now, err))
		}
		return result, err
	}
	defer place.Close()
	copying := store.Copying{
		Place: place, Owner: c.Owner(), Local: c.spec.Snapshots.Destination, Memory: c.memory(), Now: now,
		AcceptEmpty: opts.AcceptEmpty, KeepAll: opts.KeepAll, BringNone: opts.BringNone,
	}
	if opts.Progress != nil {
		copying.Progress = func(_ string, done, total int64) { opts.Progress(name, done, total) }
	}
	return store.Copy(ctx, copying)
}

// PruneLocal prunes the spec's folder, and leaves there what a further place
// wants and does not have yet: for a week after it was taken at most, and as long
// as the folder has room for more.
func (c *Copies) PruneLocal(ctx context.Context, now time.Time) (kept, deleted []etcdops.Decision, err error) {
	s := c.spec.Snapshots
	return etcdops.PruneHolding(ctx, s.Destination, s.Keep, now, func(local []etcdops.Entry) map[string]string { return c.held(local, now) })
}

// PlanLocal is what PruneLocal would do.
func (c *Copies) PlanLocal(now time.Time) (kept, dropped []etcdops.Decision, err error) {
	local, err := etcdops.List(c.spec.Snapshots.Destination)
	if err != nil {
		return nil, nil, err
	}
	kept, dropped = etcdops.Retain(local, c.spec.Snapshots.Keep, now)
	kept, dropped = etcdops.Hold(kept, dropped, c.held(local, now))
	return kept, dropped, nil
}

func (c *Copies) held(local []etcdops.Entry, now time.Time) map[string]string {
	if !roomForMore(c.spec.Snapshots.Destination, local) {
		return nil
	}
	known := map[string]store.Known{}
	var places []store.Place
	for _, at := range c.spec.Snapshots.Copies {
		place := copyPlace(at)
		k, err := store.ReadKnown(c.memory(), place)
		if err != nil {
			c.log.Warn("what lies at a further place is not known", "place", at.Name, "error", err)
		}
		known[at.Name], places = k, append(places, place)
	}
	return store.Held(local, places, known, c.Owner(), now)
}

// moreSnapshots is for how many further snapshots of today's size the folder must
// have room, if any are held for places that are away.
const moreSnapshots = 4

// roomForMore tells whether the folder has that room.
func roomForMore(dir string, local []etcdops.Entry) bool {
	newest, ok := etcdops.Newest(local)
	if !ok {
		return true
	}
	free, err := etcdops.FreeBytes(dir)
	return err != nil || free > moreSnapshots*newest.Size
}

// CopyStatus is a further place as it was when it was last asked.
type CopyStatus struct {
	Name  string `json:"name"`
	Where string `json:"where"`
	store.Known
}

// Status reads what the host knows of each place. It asks none.
func (c *Copies) Status() []CopyStatus {
	var list []CopyStatus
	for _, at := range c.spec.Snapshots.Copies {
		place := copyPlace(at)
		known, err := store.ReadKnown(c.memory(), place)
		if err != nil {
			known.Error = err.Error()
		}
		list = append(list, CopyStatus{Name: place.Name, Where: place.Where, Known: known})
	}
	return list
}

// problems says what is wrong with the place.
func (s CopyStatus) problems() []string {
	var list []string
	if s.Error != "" {
		list = append(list, fmt.Sprintf("snapshots are not brought to %s (%s): %s", s.Name, s.Where, s.Error))
	}
	if len(s.Vanished) > 0 {
		list = append(list, fmt.Sprintf("snapshots that were brought to %s were there no more within the last week, and this host did not delete them: %s", s.Name, strings.Join(s.Gone(), ", ")))
	}
	return list
}

// logCopied logs what was done at a place, and once what is wrong with it.
func logCopied(log *slog.Logger, result store.Result, before store.Known) {
	log = log.With("place", result.Place)
	for _, name := range result.Brought {
		log.Info("snapshot brought to a further place", "snapshot", name)
	}
	for _, d := range result.Deleted {
		log.Info("snapshot deleted at a further place", "snapshot", d.Entry.Path, "because", d.Reason)
	}
	for _, lock := range result.Locked {
		if !slices.Contains(before.Locked, lock.Name) {
			log.Info("snapshot kept by object lock at a further place", "snapshot", lock.Name, "until", lock.Until)
		}
	}
	for _, name := range result.Vanished {
		if !slices.Contains(before.Gone(), name) {
			log.Warn("a snapshot that was brought to a further place is there no more, and this host did not delete it", "snapshot", name)
		}
	}
	switch {
	case result.Error != "" && result.Error != before.Error:
		log.Error("snapshots are not brought to a further place", "missing", len(result.Missing), "error", result.Error)
	case result.Error == "" && before.Error != "":
		log.Info("snapshots are brought to a further place again", "there", result.Has)
	}
}

// Where is where a place is: the folder on the host, too.
func (c *Copies) Where(name string) string {
	if name == hosts.LocalCopy {
		return c.spec.Snapshots.Destination
	}
	at, _ := c.find(name)
	return store.Where(at)
}
