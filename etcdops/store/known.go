package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Known is what a host remembers of a place: a store that was emptied, or a share
// that is not mounted, looks like one that is new.
type Known struct {
	// Where it was. Of another place with the same name nothing is known.
	Where string `json:"where"`
	// Snapshots are the names of the host's own good ones that were there when
	// all of them were last listed, the newest first.
	Snapshots []string `json:"snapshots"`
	// Reached is when that was, zero for never.
	Reached time.Time `json:"reached,omitzero"`
	// Missing are the names of those that were wanted there and not brought.
	Missing []string `json:"missing,omitempty"`
	// Vanished are those that were there and that this host did not delete, for a
	// week after they were missed; some may have been brought again since.
	Vanished []Gone `json:"vanished,omitempty"`
	// Locked are those that retention drops and object lock keeps.
	Locked []string `json:"locked,omitempty"`
	// Error is why the last pass failed, empty after one that did not, and Failed
	// how often in a row that was.
	Error  string    `json:"error,omitempty"`
	Failed int       `json:"failed,omitempty"`
	Tried  time.Time `json:"tried,omitzero"`
}

// Gone is a snapshot that was there, and since when it is missed.
type Gone struct {
	Name   string    `json:"name"`
	Missed time.Time `json:"missed"`
}

// goneFor is for how long a snapshot that vanished is spoken of.
const goneFor = 7 * 24 * time.Hour

// knownFile is where a host keeps what it knows of the place.
func knownFile(dir, name string) string { return filepath.Join(dir, name+".json") }

// ReadKnown reads what is known of a place from the folder; nothing where
// nothing is, or where it was another place.
func ReadKnown(dir string, p Place) (Known, error) {
	fresh := Known{Where: p.Where}
	content, err := os.ReadFile(knownFile(dir, p.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, err
	}
	var k Known
	if err := json.Unmarshal(content, &k); err != nil {
		return fresh, fmt.Errorf("read %q: %w: delete it; nothing but the memory of what lies at %s is lost with it", knownFile(dir, p.Name), err, p.Where)
	}
	if k.Where != p.Where {
		return fresh, nil
	}
	return k, nil
}

func writeKnown(dir, name string, k Known) error {
	content, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(knownFile(dir, name), append(content, '\n'), 0o600)
}

// ErrEmptied is the error of a place that has none of the snapshots that were
// brought there.
var ErrEmptied = errors.New("none of the snapshots that were brought there is there any more")

// vanished are those that are known and not there.
func (k Known) vanished(there []string) []string {
	return slices.DeleteFunc(slices.Clone(k.Snapshots), func(name string) bool { return slices.Contains(there, name) })
}

// compare is an error where the place must not be taken for the truth.
func (k Known) compare(there []string) error {
	if gone := k.vanished(there); len(gone) > 0 && len(gone) == len(k.Snapshots) && len(there) == 0 {
		return fmt.Errorf("%w: %s, and %d more: is the share mounted, the bucket and the prefix the right one? If they were deleted on purpose, `nodeagent snapshot copy --accept-empty` begins anew there",
			ErrEmptied, gone[0], len(gone)-1)
	}
	return nil
}

// saw notes what is there in the end, and what was missed when it was listed.
func (k *Known) saw(there, missed []string, now time.Time) {
	now = now.UTC().Truncate(time.Second)
	k.Vanished = slices.DeleteFunc(k.Vanished, func(g Gone) bool { return now.Sub(g.Missed) >= goneFor || slices.Contains(missed, g.Name) })
	for _, name := range missed {
		k.Vanished = append(k.Vanished, Gone{name, now})
	}
	k.Snapshots, k.Reached = there, now
}

// Gone are the names of those that vanished.
func (k Known) Gone() []string {
	var names []string
	for _, g := range k.Vanished {
		names = append(names, g.Name)
	}
	return names
}

// goodNames are the names of the owner's good snapshots.
func goodNames(entries []etcdops.Entry, owner Owner) []string {
	var names []string
	for _, e := range entries {
		if owner.owns(e) && e.Good() {
			names = append(names, path.Base(e.Path))
		}
	}
	return names
}

// HoldFor is for how long after it was taken a local snapshot is held for a place
// that does not have it, whatever the local retention says. A place that is away
// for longer must not fill the host's disk.
const HoldFor = 7 * 24 * time.Hour

// Held says why a local snapshot must stay for now: because a place wants it and
// does not have it. It is pure; known has what is known of each place.
func Held(local []etcdops.Entry, places []Place, known map[string]Known, owner Owner, now time.Time) map[string]string {
	waiting := map[string][]string{}
	for _, p := range places {
		has := known[p.Name].Snapshots
		for _, e := range Missing(local, nil, owner, p.Keep, now) {
			if !slices.Contains(has, path.Base(e.Path)) && now.Sub(e.Taken) < HoldFor {
				waiting[e.Path] = append(waiting[e.Path], p.Name)
			}
		}
	}
	held := map[string]string{}
	for file, names := range waiting {
		held[file] = "not yet brought to " + strings.Join(names, ", ")
	}
	return held
}
