package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/etcdops"
)

// manifestsAtOnce is how many manifests are read at once.
const manifestsAtOnce = 8

// maxManifest is more than any manifest has, in bytes.
const maxManifest = 1 << 20

// Snapshots lists the snapshots of a folder of the store, newest first, from
// names, sizes and manifests. An entry's Path is the object's name. What cannot be
// asked for is an error, and nothing is listed then.
func Snapshots(ctx context.Context, s Store, dir string) ([]etcdops.Entry, error) {
	objects, err := s.List(ctx, dir)
	if err != nil {
		return nil, err
	}
	manifests, err := manifestsOf(ctx, s, objects)
	if err != nil {
		return nil, err
	}
	var entries []etcdops.Entry
	for _, object := range objects {
		if etcdops.IsSnapshotName(object.Name) {
			name := etcdops.ManifestName(object.Name)
			entries = append(entries, entryOf(object, manifests[name]))
			if found := manifests[name]; found != nil && found.name() == path.Base(object.Name) {
				delete(manifests, name)
			}
		}
	}
	for name, left := range manifests {
		if left.err == nil {
			m := left.manifest
			entries = append(entries, etcdops.Entry{
				Path: path.Join(path.Dir(name), m.Name()), Taken: m.Taken, Manifest: &m, Damage: "its manifest is there, the snapshot is not",
			})
		}
	}
	slices.SortStableFunc(entries, func(a, b etcdops.Entry) int {
		return cmp.Or(b.Taken.Compare(a.Taken), strings.Compare(b.Path, a.Path))
	})
	return entries, nil
}

// read is a manifest that was read, or why it could not be understood.
type read struct {
	manifest etcdops.Manifest
	err      error
}

func (r *read) name() string {
	if r.err != nil {
		return ""
	}
	return r.manifest.Name()
}

// entryOf is the entry of an object with its manifest, nil where there is none.
func entryOf(object Object, found *read) etcdops.Entry {
	e := etcdops.Entry{Path: object.Name, Size: object.Size, Taken: object.Modified.UTC()}
	switch {
	case found == nil:
	case found.err != nil:
		e.Damage = found.err.Error()
	case found.name() != path.Base(object.Name): // that of another form of it
	default:
		e.Manifest, e.Taken = &found.manifest, found.manifest.Taken
		if e.Manifest.Stored.Size != object.Size {
			e.Damage = fmt.Sprintf("it has %d bytes, its manifest says %d", object.Size, e.Manifest.Stored.Size)
		}
	}
	return e
}

// manifestsOf reads the manifests among the objects.
func manifestsOf(ctx context.Context, s Store, objects []Object) (map[string]*read, error) {
	found := map[string]*read{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(manifestsAtOnce)
	for _, object := range objects {
		if !etcdops.IsManifestName(object.Name) {
			continue
		}
		r := &read{}
		found[object.Name] = r
		group.Go(func() error {
			content, err := readAll(ctx, s, object.Name)
			if errors.Is(err, ErrNotFound) {
				r.err = err // deleted since
				return nil
			}
			if err == nil {
				r.manifest, r.err = etcdops.ParseManifest(object.Name, content)
				if r.err == nil && r.manifest.Cluster == "" {
					r.err = fmt.Errorf("%s is no manifest", object.Name)
				}
			}
			return err
		})
	}
	return found, group.Wait()
}

// readAll reads a small object.
func readAll(ctx context.Context, s Store, name string) (content []byte, err error) {
	r, err := s.Get(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	defer closing(&err, r.Close)
	content, err = io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(content) > maxManifest {
		err = fmt.Errorf("read %s: it is too long for a manifest", name)
	}
	return content, err
}
