package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

var mercury = Owner{"c", "mercury"}

func manifestAt(owner Owner, taken time.Time) etcdops.Manifest {
	return etcdops.Manifest{Format: etcdops.ManifestFormat, Cluster: owner.Cluster, Host: owner.Host, Taken: taken, ClusterID: "1"}
}

func entryAt(owner Owner, age time.Duration) etcdops.Entry {
	m := manifestAt(owner, noon.Add(-age))
	return etcdops.Entry{Path: "/s/" + m.Name(), Taken: m.Taken, Manifest: &m}
}

// TestMissingAndPrune holds the decisions against what they are for, over any
// state of the host and the place.
func TestMissingAndPrune(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		keep := hosts.Retention{Last: 1 + r.IntN(4), Hourly: r.IntN(4), Daily: r.IntN(4), Weekly: r.IntN(3), Monthly: r.IntN(3)}
		if r.IntN(3) == 0 {
			keep.Within = time.Duration(r.IntN(100)) * time.Hour
		}
		if r.IntN(3) == 0 {
			keep.Longest = keep.Within + time.Duration(1+r.IntN(500))*time.Hour
		}
		var local, there []etcdops.Entry
		for range r.IntN(30) {
			e := entryAt(mercury, time.Duration(r.IntN(24*60*40))*time.Minute)
			remote := e
			remote.Path = objectOf(*e.Manifest)
			switch r.IntN(8) {
			case 0, 1, 2:
				local = append(local, e)
			case 3, 4:
				there = append(there, remote)
			case 5:
				local, there = append(local, e), append(there, remote)
			case 6: // it broke there
				remote.Damage = "cut off"
				local, there = append(local, e), append(there, remote)
			case 7:
				there = append(there, entryAt(Owner{"c", "venus"}, time.Duration(r.IntN(1000))*time.Hour))
			}
		}
		missing := Missing(local, there, mercury, keep, noon)
		after := apply(there, missing)
		_, dropped := Prune(after, mercury, keep, noon)
		for _, d := range dropped {
			if slices.Contains(namesOf(missing), path.Base(d.Entry.Path)) {
				t.Fatalf("seed %d: %s is brought there and dropped at once: %s", seed, d.Entry.Path, d.Reason)
			}
			if d.Entry.Manifest.Host != mercury.Host {
				t.Fatalf("seed %d: another host's snapshot is dropped", seed)
			}
			after = slices.DeleteFunc(after, func(e etcdops.Entry) bool { return e.Path == d.Entry.Path })
		}
		if again := Missing(local, after, mercury, keep, noon); len(again) > 0 {
			t.Fatalf("seed %d: a second run would bring %v", seed, namesOf(again))
		}
		if _, again := Prune(after, mercury, keep, noon); len(again) > 0 {
			t.Fatalf("seed %d: a second run would delete %v", seed, again)
		}
		newestHere, ok := etcdops.Newest(local)
		newestThere, _ := etcdops.Newest(slices.DeleteFunc(slices.Clone(after), func(e etcdops.Entry) bool { return !mercury.owns(e) }))
		if ok && newestThere.Taken.Before(newestHere.Taken) {
			t.Fatalf("seed %d: the newest there is of %s, here of %s", seed, newestThere.Taken, newestHere.Taken)
		}
		// What is pruned before something comes would go after it as well.
		_, before := Prune(there, mercury, keep, noon)
		for _, d := range before {
			if slices.Contains(goodNames(after, mercury), path.Base(d.Entry.Path)) && d.Entry.Damage == "" {
				t.Fatalf("seed %d: %s goes at first and stays in the end", seed, d.Entry.Path)
			}
		}
	}
}

func apply(there, missing []etcdops.Entry) []etcdops.Entry {
	after := slices.Clone(there)
	for _, e := range missing {
		e.Path = objectOf(*e.Manifest)
		after = append(slices.DeleteFunc(after, func(o etcdops.Entry) bool { return o.Path == e.Path }), e)
	}
	return after
}

// host is a host with snapshots in a folder.
type host struct {
	t      *testing.T
	owner  Owner
	dir    string
	memory string
	place  Place
}

func newHost(t *testing.T, s Store, owner Owner, keep hosts.Retention) *host {
	return &host{t: t, owner: owner, dir: t.TempDir(), memory: t.TempDir(), place: Place{Name: "offsite", Where: "there", Store: s, Keep: keep}}
}

// take makes a snapshot of a size, and returns its name.
func (h *host) take(age time.Duration, size int) string {
	h.t.Helper()
	content, meta := some(size)
	m := manifestAt(h.owner, noon.Add(-age))
	m.Size, m.SHA256 = meta.Size, meta.SHA256
	m.Stored = etcdops.Stored{Size: meta.Size, SHA256: meta.SHA256}
	text, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	file := m.Path(h.dir)
	if err := errors.Join(os.WriteFile(file, content, 0o600), os.WriteFile(etcdops.ManifestName(file), text, 0o600)); err != nil {
		h.t.Fatal(err)
	}
	return m.Name()
}

func (h *host) copying() Copying {
	return Copying{Place: h.place, Owner: h.owner, Local: h.dir, Memory: h.memory, Now: noon}
}

func (h *host) copy() Result {
	h.t.Helper()
	result, err := Copy(context.Background(), h.copying())
	if err != nil {
		h.t.Fatal(err)
	}
	return result
}

// whole tells which of the host's snapshots the place shows, and fails where one
// of them is not whole.
func (h *host) whole() []string {
	h.t.Helper()
	entries, err := Snapshots(context.Background(), h.place.Store, h.owner.Dir())
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !e.Good() {
			continue
		}
		if got := metaOf(contentOf(h.t, h.place.Store, e.Path, 0)); got.SHA256 != e.Manifest.Stored.SHA256 {
			h.t.Errorf("%s shows itself and is not whole", e.Path)
		}
		names = append(names, path.Base(e.Path))
	}
	return names
}

// TestCopy has hosts share a store: each brings its own and prunes its own.
func TestCopy(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		venus := newHost(t, s, Owner{"c", "venus"}, hosts.Retention{Last: 5})
		for age := range 3 {
			venus.take(time.Duration(age)*time.Hour, 10)
		}
		venus.copy()
		h := newHost(t, s, mercury, hosts.Retention{Last: 2})
		var taken []string
		for age := range 4 {
			taken = append(taken, h.take(time.Duration(age)*time.Hour, 10+age*smallPart))
		}
		result := h.copy()
		if !slices.Equal(result.Brought, taken[:2]) || len(result.Deleted) > 0 || result.Has != 2 || result.Missing != nil {
			t.Fatalf("the first run: %+v, want it to bring %v", result, taken[:2])
		}
		if result = h.copy(); len(result.Brought)+len(result.Deleted) > 0 || result.Has != 2 {
			t.Fatalf("the second run: %+v", result)
		}
		newer := h.take(-time.Minute, 100)
		if result = h.copy(); !slices.Equal(result.Brought, []string{newer}) || len(result.Deleted) != 1 || result.Has != 2 {
			t.Fatalf("with a newer one: %+v", result)
		}
		if got := h.whole(); !slices.Equal(got, []string{newer, taken[0]}) {
			t.Errorf("there are %v", got)
		}
		if got := venus.whole(); len(got) != 3 {
			t.Errorf("of the other host there are %v", got)
		}
		if all := names(t, s, ""); len(all) != 2*(2+3) {
			t.Errorf("there are %v", all)
		}
		h.repairs(newer, taken[0])
	})
}

// repairs puts right what is not whole there, and says what vanished.
func (h *host) repairs(newer, older string) {
	t, ctx := h.t, context.Background()
	t.Helper()
	// A manifest alone, a snapshot alone, one that was cut off.
	object := path.Join(h.owner.Dir(), newer)
	for what, harm := range map[string]func() error{
		"a manifest alone": func() error { return h.place.Store.Delete(ctx, object) },
		"a snapshot alone": func() error { return h.place.Store.Delete(ctx, etcdops.ManifestName(object)) },
		"one that was cut": func() error { put(t, h.place.Store, object, []byte("cut")); return nil },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if got := h.whole(); !slices.Equal(got, []string{older}) {
			t.Errorf("%s: good are %v", what, got)
		}
		result := h.copy()
		if !slices.Equal(result.Brought, []string{newer}) || len(result.Deleted) > 0 {
			t.Errorf("%s: %+v", what, result)
		}
		if got := h.whole(); !slices.Equal(got, []string{newer, older}) {
			t.Errorf("%s: afterwards there are %v", what, got)
		}
	}
	// One that somebody deleted is said, and brought again where it is here still.
	for _, name := range []string{older, strings.Replace(older, ".db", ".json", 1)} {
		if err := h.place.Store.Delete(ctx, path.Join(h.owner.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(h.dir, older)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and it is said for a while
		if result := h.copy(); !slices.Contains(result.Vanished, older) {
			t.Errorf("nothing is said of one that vanished: %+v", result)
		}
	}
	later := h.copying()
	later.Now = noon.Add(goneFor)
	if result, err := Copy(ctx, later); err != nil || len(result.Vanished) > 0 {
		t.Errorf("a week later %v are missed still (%v)", result.Vanished, err)
	}
}

// TestEmptied takes a store that has nothing any more for the truth only when
// told to, and writes nothing into it before.
func TestEmptied(t *testing.T) {
	t.Parallel()
	h := newHost(t, NewFolder(t.TempDir()), mercury, hosts.Retention{Last: 9})
	first, second := h.take(time.Hour, 10), h.take(2*time.Hour, 10)
	h.copy()
	h.place.Store = NewFolder(t.TempDir())
	result, err := Copy(context.Background(), h.copying())
	if !errors.Is(err, ErrEmptied) || !strings.Contains(err.Error(), "--accept-empty") || result.Error == "" {
		t.Fatalf("an emptied store: %+v, %v", result, err)
	}
	if got := names(t, h.place.Store, ""); got != nil {
		t.Errorf("it was written to: %v", got)
	}
	known, err := ReadKnown(h.memory, h.place)
	if err != nil || known.Error == "" || known.Failed != 1 || len(known.Snapshots) != 2 {
		t.Errorf("remembered is %+v, %v", known, err)
	}
	accepting := h.copying()
	accepting.AcceptEmpty = true
	if result, err = Copy(context.Background(), accepting); err != nil || !slices.Equal(result.Brought, []string{first, second}) || result.Vanished != nil {
		t.Errorf("told to begin anew: %+v, %v", result, err)
	}
	// Another place by the same name has nothing to compare with.
	h.place.Store, h.place.Where = NewFolder(t.TempDir()), "elsewhere"
	if result = h.copy(); len(result.Brought) != 2 {
		t.Errorf("elsewhere: %+v", result)
	}
}

// TestErrorListsNothing deletes nothing and forgets nothing where the store cannot
// be read.
func TestErrorListsNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t, NewFolder(t.TempDir()), mercury, hosts.Retention{Last: 1})
	name := h.take(time.Hour, 10)
	h.copy()
	newer := h.take(time.Minute, 10)
	h.place.Store = NewFolder(filepath.Join(t.TempDir(), "not mounted"))
	result, err := Copy(context.Background(), h.copying())
	if !errors.Is(err, ErrNoStore) || !slices.Equal(result.Missing, []string{newer}) || len(result.Deleted) > 0 || result.Has != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	known, err := ReadKnown(h.memory, h.place)
	if err != nil || !slices.Equal(known.Snapshots, []string{name}) || known.Failed != 1 {
		t.Errorf("remembered is %+v, %v", known, err)
	}
}

// TestHeld holds what a place wants and does not have, for a week.
func TestHeld(t *testing.T) {
	t.Parallel()
	place := Place{Name: "offsite", Keep: hosts.Retention{Last: 3}}
	var local []etcdops.Entry
	for _, age := range []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour} {
		local = append(local, entryAt(mercury, age))
	}
	local = append(local, entryAt(Owner{"c", "venus"}, time.Minute))
	known := map[string]Known{"offsite": {Snapshots: []string{path.Base(local[0].Path)}}}
	held := Held(local, []Place{place}, known, mercury, noon)
	if len(held) != 2 || !strings.Contains(held[local[1].Path], "offsite") || held[local[2].Path] == "" {
		t.Errorf("held are %v, want the second and the third", held)
	}
	if held := Held(local, []Place{place}, known, mercury, noon.Add(HoldFor)); len(held) > 0 {
		t.Errorf("after a week %v are still held", held)
	}
	kept, dropped := etcdops.Retain(local[:4], hosts.Retention{Last: 1}, noon)
	kept, dropped = etcdops.Hold(kept, dropped, held)
	if len(kept) != 3 || len(dropped) != 1 || dropped[0].Entry.Path != local[3].Path || !strings.Contains(kept[1].Reason, "not yet brought to offsite") {
		t.Errorf("kept %v, dropped %v", kept, dropped)
	}
}

// TestFetch finds what is meant, goes on where it broke off, and brings nothing
// that is not whole.
func TestFetch(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		ctx := context.Background()
		h := newHost(t, s, mercury, hosts.Retention{Last: 9})
		older, newer := h.take(2*time.Hour, 2*smallPart+99), h.take(time.Hour, 7)
		h.copy()
		for name, want := range map[string]string{Latest: newer, older: older, mercury.Dir() + "/" + older: older} {
			for _, owner := range []Owner{mercury, {"c", "of another host"}} {
				e, err := Find(ctx, s, name, owner, noon)
				if err != nil || path.Base(e.Path) != want {
					t.Errorf("find %s: %s, %v, want %s", name, e.Path, err, want)
				}
			}
		}
		venus := newHost(t, s, Owner{"c", "venus"}, hosts.Retention{Last: 9})
		newest := venus.take(time.Minute, 7)
		venus.take(-48*time.Hour, 7) // of a clock that was wrong
		venus.copy()
		if e, err := Find(ctx, s, Latest, mercury, noon); err != nil || path.Base(e.Path) != newest {
			t.Errorf("find the newest of the cluster: %s, %v, want %s", e.Path, err, newest)
		}
		if _, err := Find(ctx, s, Latest, Owner{"another", "mercury"}, noon); !errors.Is(err, ErrNotFound) {
			t.Errorf("find the newest of another cluster: %v", err)
		}
		e, err := Find(ctx, s, older, mercury, noon)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		cutting := &cuts{Store: s, after: 1 << 20}
		file, err := Fetch(ctx, cutting, e, dir, func(int64, int64) {})
		if err != nil || cutting.gets < 3 {
			t.Fatalf("fetch with interruptions: %v after %d requests", err, cutting.gets)
		}
		local, err := etcdops.List(dir)
		if err != nil || len(local) != 1 || !local[0].Good() {
			t.Errorf("fetched are %+v, %v", local, err)
		}
		if again, err := Fetch(ctx, broken{}, e, dir, nil); err == nil || again != "" {
			t.Errorf("a store that is broken gives %q, %v", again, err)
		}
		content, err := os.ReadFile(file)
		if err != nil || metaOf(content).SHA256 != e.Manifest.Stored.SHA256 {
			t.Errorf("what is fetched is another one: %v", err)
		}
		content[smallPart] ^= 1
		put(t, s, e.Path, content)
		other := t.TempDir()
		if _, err := Fetch(ctx, s, e, other, func(int64, int64) {}); !errors.Is(err, ErrChanged) {
			t.Errorf("fetch one with a bit that changed: %v", err)
		}
		if left, _ := os.ReadDir(other); len(left) > 0 {
			t.Errorf("it left %v", left)
		}
	})
}

// cuts is a store whose answers break off.
type cuts struct {
	Store
	after int64
	gets  int
}

func (c *cuts) Get(ctx context.Context, name string, from int64) (r io.ReadCloser, err error) {
	r, err = c.Store.Get(ctx, name, from)
	if err != nil || !etcdops.IsSnapshotName(name) {
		return r, err
	}
	c.gets++
	return &cut{r, c.after}, nil
}

type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the connection broke off")
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

type broken struct{ Store }

func (broken) Get(context.Context, string, int64) (io.ReadCloser, error) {
	return nil, ErrStalled
}
