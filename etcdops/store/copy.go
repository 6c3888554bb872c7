package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Copying says what is brought where.
type Copying struct {
	Place Place
	Owner Owner
	// Local is the folder of the host's own snapshots, Memory the one where it
	// keeps what it knows of places.
	Local, Memory string
	Now           time.Time
	// AcceptEmpty takes a place that has nothing any more for a new one.
	AcceptEmpty bool
	// KeepAll brings what is missing and deletes nothing; BringNone deletes what
	// retention drops and brings nothing.
	KeepAll, BringNone bool
	// Progress, if set, is called with the bytes of a snapshot brought and in all.
	Progress func(name string, done, total int64)
}

// Result is what was done at one place. After an error it is what was done before
// that.
type Result struct {
	Place string `json:"place"`
	Where string `json:"where"`
	// Brought are the names of the snapshots that are there now and were not.
	Brought []string `json:"brought"`
	// Deleted are those that retention dropped there, Locked those of them that
	// object lock keeps.
	Deleted []etcdops.Decision `json:"deleted"`
	Locked  []Lock             `json:"locked,omitempty"`
	// Missing are those that are wanted there and are not.
	Missing []string `json:"missing,omitempty"`
	// Vanished are those that were there and that this host did not delete, missed
	// now or within a week; some may have been brought again.
	Vanished []string `json:"vanished,omitempty"`
	// Has is how many good ones of the host's own are there in the end.
	Has int `json:"has"`
	// Error is why not all was done.
	Error string `json:"error,omitempty"`
}

// Lock is a snapshot that may not be deleted yet.
type Lock struct {
	Name string `json:"name"`
	// Until is zero where it is not known.
	Until time.Time `json:"until,omitzero"`
}

// Copy brings to the place what it wants and does not have, and deletes there what
// its retention drops: the owner's own snapshots, and no others. It may be
// interrupted anywhere and be run again; a second run has nothing to do. A run
// waits for another one of the same host to the same place.
func Copy(ctx context.Context, c Copying) (result Result, err error) {
	result = Result{Place: c.Place.Name, Where: c.Place.Where, Brought: []string{}, Deleted: []etcdops.Decision{}}
	defer func() {
		if err != nil {
			result.Error = err.Error()
		}
	}()
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	if err := atomicfile.MkdirAll(c.Memory, 0o700); err != nil {
		return result, err
	}
	release, err := await(ctx, filepath.Join(c.Memory, c.Place.Name+".lock"))
	if err != nil {
		return result, err
	}
	defer closing(&err, release)
	known, err := ReadKnown(c.Memory, c.Place)
	if err != nil {
		return result, err
	}
	r := &run{Copying: c, known: known, result: &result}
	err = r.all(ctx)
	return result, errors.Join(err, r.remember(err))
}

// Failed notes that a place could not even be opened.
func Failed(memory string, p Place, now time.Time, cause error) error {
	known, err := ReadKnown(memory, p)
	if err == nil {
		err = atomicfile.MkdirAll(memory, 0o700)
	}
	if err != nil {
		return err
	}
	r := &run{Copying: Copying{Place: p, Memory: memory, Now: now}, known: known, result: &Result{Missing: known.Missing}}
	return r.remember(cause)
}

// run is one Copy under way.
type run struct {
	Copying
	known  Known
	result *Result
	there  []etcdops.Entry
	missed []string // when it was listed
	seen   bool
}

func (r *run) all(ctx context.Context) error {
	local, err := etcdops.List(r.Local)
	if err != nil {
		return err
	}
	if r.there, err = Snapshots(ctx, r.Place.Store, r.Owner.Dir()); err != nil {
		r.result.Missing = r.missing(local)
		return err
	}
	if err := r.known.compare(goodNames(r.there, r.Owner)); err != nil && !r.AcceptEmpty {
		r.result.Missing = r.missing(local)
		return err
	}
	if r.AcceptEmpty {
		r.known.Snapshots, r.known.Vanished = nil, nil
	}
	r.seen, r.missed = true, r.known.vanished(goodNames(r.there, r.Owner))
	missing := Missing(local, r.there, r.Owner, r.Place.Keep, r.Now)
	if err := r.Place.Store.Tidy(ctx, r.Owner.Dir(), objectsOf(missing)); err != nil {
		r.result.Missing = namesOf(missing)
		return err
	}
	// What is dropped already makes room for what comes.
	pruneErr := r.prune(ctx)
	if r.BringNone {
		r.result.Missing = namesOf(missing)
		return pruneErr
	}
	err = r.bring(ctx, missing)
	if err == nil && len(r.result.Brought) > 0 && pruneErr == nil {
		pruneErr = r.prune(ctx)
	}
	return errors.Join(err, pruneErr)
}

// missing is what is wanted there as far as this host knows.
func (r *run) missing(local []etcdops.Entry) []string {
	return slices.DeleteFunc(namesOf(Missing(local, nil, r.Owner, r.Place.Keep, r.Now)), func(name string) bool {
		return slices.Contains(r.known.Snapshots, name)
	})
}

// bring brings snapshots there, the newest first: it is worth most. One that
// fails does not keep the others back, unless the place does.
func (r *run) bring(ctx context.Context, missing []etcdops.Entry) error {
	var failed []error
	for i, e := range missing {
		err := r.put(ctx, e)
		if errors.Is(err, os.ErrNotExist) && !errors.Is(err, ErrNoStore) {
			continue // deleted here since it was listed
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("bring %s there: %w", path.Base(e.Path), err))
			r.result.Missing = append(r.result.Missing, path.Base(e.Path))
			if !errors.Is(err, ErrChanged) {
				r.result.Missing = append(r.result.Missing, namesOf(missing[i+1:])...)
				break
			}
			continue
		}
		r.result.Brought = append(r.result.Brought, path.Base(e.Path))
		there := e
		there.Path = objectOf(*e.Manifest)
		r.there = append(slices.DeleteFunc(r.there, func(e etcdops.Entry) bool { return e.Path == there.Path }), there)
	}
	return errors.Join(failed...)
}

// put brings a snapshot there and then its manifest, which tells that it is
// there.
func (r *run) put(ctx context.Context, e etcdops.Entry) (err error) {
	f, err := os.Open(e.Path)
	if err != nil {
		return err
	}
	defer closing(&err, f.Close)
	content, err := os.ReadFile(etcdops.ManifestName(e.Path))
	if err != nil {
		return err
	}
	m, object := *e.Manifest, objectOf(*e.Manifest)
	meta := Meta{Size: m.Stored.Size, SHA256: m.Stored.SHA256, ContentType: contentType(object), About: about(m)}
	has, err := r.Place.Store.Has(ctx, object, meta) // an interrupted run brought it
	if err != nil {
		return err
	}
	if !has {
		progress := func(done, total int64) { r.Progress(m.Name(), done, total) }
		if err := r.Place.Store.Put(ctx, object, f, meta, progress); err != nil {
			return err
		}
	}
	return r.putManifest(ctx, object, content, m)
}

func (r *run) putManifest(ctx context.Context, object string, content []byte, m etcdops.Manifest) error {
	name, meta := etcdops.ManifestName(object), sumOf(content)
	meta.ContentType, meta.About = contentType(name), about(m)
	return r.Place.Store.Put(ctx, name, bytes.NewReader(content), meta, func(int64, int64) {})
}

// about is what an object tells of itself to whoever looks at it in the store.
func about(m etcdops.Manifest) map[string]string {
	return map[string]string{
		"Cluster": m.Cluster, "Host": m.Host, "Taken": m.Taken.UTC().Format(time.RFC3339), "Revision": strconv.FormatInt(m.Revision, 10),
		"Etcd-Cluster": m.ClusterID, "Compression": orNone(m.Stored.Compression), "Encryption": orNone(m.Stored.Encryption),
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// prune deletes what retention drops of what is there.
func (r *run) prune(ctx context.Context) error {
	if r.KeepAll {
		return nil
	}
	_, dropped := Prune(r.there, r.Owner, r.Place.Keep, r.Now)
	for _, d := range dropped {
		err := r.delete(ctx, d.Entry)
		if kept := (*KeptError)(nil); errors.As(err, &kept) {
			r.locked(Lock{path.Base(d.Entry.Path), kept.Until})
			continue
		}
		if err != nil {
			return err
		}
		r.result.Deleted = append(r.result.Deleted, d)
		r.there = slices.DeleteFunc(r.there, func(e etcdops.Entry) bool { return e.Path == d.Entry.Path })
	}
	return nil
}

func (r *run) locked(lock Lock) {
	if !slices.ContainsFunc(r.result.Locked, func(l Lock) bool { return l.Name == lock.Name }) {
		r.result.Locked = append(r.result.Locked, lock)
	}
}

// delete deletes the snapshot first: a manifest alone is plainly ours, and the
// next run deletes it, while a snapshot alone stays.
func (r *run) delete(ctx context.Context, e etcdops.Entry) error {
	if err := r.Place.Store.Delete(ctx, e.Path); err != nil {
		return err
	}
	return r.Place.Store.Delete(ctx, etcdops.ManifestName(e.Path))
}

// remember keeps what is known of the place now.
func (r *run) remember(err error) error {
	k := &r.known
	if r.seen {
		slices.SortFunc(r.there, func(a, b etcdops.Entry) int { return b.Taken.Compare(a.Taken) })
		k.saw(goodNames(r.there, r.Owner), r.missed, r.Now)
	}
	k.Missing, k.Tried, k.Locked = r.result.Missing, r.Now.UTC().Truncate(time.Second), nil
	for _, l := range r.result.Locked {
		k.Locked = append(k.Locked, l.Name)
	}
	if err != nil {
		k.Error, k.Failed = err.Error(), k.Failed+1
	} else {
		k.Error, k.Failed = "", 0
	}
	r.result.Vanished, r.result.Has = k.Gone(), len(k.Snapshots)
	return writeKnown(r.Memory, r.Place.Name, *k)
}

func namesOf(entries []etcdops.Entry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, path.Base(e.Path))
	}
	return names
}

func objectsOf(entries []etcdops.Entry) []string {
	var objects []string
	for _, e := range entries {
		objects = append(objects, objectOf(*e.Manifest))
	}
	return objects
}

// lockPause is the pause between two tries to lock.
const lockPause = 200 * time.Millisecond

// await is [etcdops.Lock] that waits for whoever holds it until ctx is done.
func await(ctx context.Context, file string) (release func() error, err error) {
	for {
		release, err := etcdops.Lock(file)
		if !errors.Is(err, etcdops.ErrBusy) {
			return release, err
		}
		if !wait(ctx, lockPause) {
			return nil, fmt.Errorf("wait for another nodeagent that brings snapshots there: %w", ctx.Err())
		}
	}
}
