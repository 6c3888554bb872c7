package etcdops

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Entry is one snapshot of a folder.
type Entry struct {
	Path string `json:"path"`
	// Size of the file in bytes; 0 where the file itself is missing.
	Size int64 `json:"size"`
	// Taken is from the manifest, or the file's modification time without one.
	Taken time.Time `json:"taken"`
	// Manifest is nil where there is none that can be read.
	Manifest *Manifest `json:"manifest,omitempty"`
	// Damage says what is wrong with it as far as names and sizes tell, empty
	// for a good one. Only Verify reads the content.
	Damage string `json:"damage,omitempty"`
}

// Foreign tells whether the file has no manifest: somebody else put it there.
func (e Entry) Foreign() bool { return e.Manifest == nil && e.Damage == "" }

// clockSlack is how far ahead of now a snapshot may be dated before its date is
// not believed.
const clockSlack = time.Hour

// Ahead tells whether it is dated so far in the future that the clock must have
// been wrong, then or now. Its date then says nothing about its age.
func (e Entry) Ahead(now time.Time) bool { return e.Taken.After(now.Add(clockSlack)) }

// Good tells whether the snapshot was taken by nodeagent and looks whole.
func (e Entry) Good() bool { return e.Manifest != nil && e.Damage == "" }

// List returns the snapshots of the folder, newest first. A folder that does
// not exist has none. It reads manifests and sizes, not the snapshots.
func List(dir string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var entries []Entry
	for _, file := range files {
		if file.IsDir() || strings.HasPrefix(file.Name(), atomicfile.TempPrefix) {
			continue
		}
		path := filepath.Join(dir, file.Name())
		_, snapshot := splitName(path)
		switch {
		case snapshot:
			entry, err := entryOf(path)
			if errors.Is(err, os.ErrNotExist) {
				continue // deleted since the folder was read
			}
			if err != nil {
				return nil, fmt.Errorf("list snapshots: %w", err)
			}
			entries = append(entries, entry)
		case filepath.Ext(path) == manifestSuffix:
			if entry, ok := orphan(path); ok {
				entries = append(entries, entry)
			}
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(b.Taken.Compare(a.Taken), strings.Compare(b.Path, a.Path))
	})
	return entries, nil
}

func entryOf(path string) (Entry, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Entry{}, err
	}
	entry := Entry{Path: path, Size: info.Size(), Taken: info.ModTime().UTC()}
	m, err := readManifest(path)
	switch {
	case errors.Is(err, ErrNoManifest):
	case err != nil:
		entry.Damage = err.Error()
	default:
		if stem, _ := splitName(path); path[len(stem):] != m.Stored.suffix() {
			break // somebody has unpacked it: the manifest is that of the other file
		}
		entry.Manifest, entry.Taken = &m, m.Taken
		if m.Stored.Size != info.Size() {
			entry.Damage = fmt.Sprintf("it has %d bytes, its manifest says %d", info.Size(), m.Stored.Size)
		}
	}
	return entry, nil
}

// orphan is the entry of a manifest whose snapshot is missing.
func orphan(path string) (Entry, bool) {
	m, err := readManifestFile(path)
	if err != nil || m.Cluster == "" {
		return Entry{}, false
	}
	snapshot := m.Path(filepath.Dir(path))
	if _, err := os.Lstat(snapshot); err == nil {
		return Entry{}, false
	}
	return Entry{Path: snapshot, Taken: m.Taken, Manifest: &m, Damage: "its manifest is there, the snapshot is not"}, true
}

// Newest returns the newest snapshot that was taken by nodeagent and looks
// whole; ok is false where there is none.
func Newest(entries []Entry) (newest Entry, ok bool) {
	for _, e := range entries {
		if e.Good() && (!ok || e.Taken.After(newest.Taken)) {
			newest, ok = e, true
		}
	}
	return newest, ok
}
