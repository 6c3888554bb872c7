package etcdops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Two checksums are joined as if the bytes were one string.
func TestJoinCRC(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, lengths := range [][2]int{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {3, 7}, {17, 4096}, {4079, 12288}, {100, 1 << 20}, {1<<20 + 1, 1<<20 + 13}} {
		b := make([]byte, lengths[0]+lengths[1])
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		first, second := crc32.Checksum(b[:lengths[0]], castagnoli), crc32.Checksum(b[lengths[0]:], castagnoli)
		if got, want := joinCRC(first, second, uint64(lengths[1])), crc32.Checksum(b, castagnoli); got != want {
			t.Errorf("of %v: %08x, not %08x", lengths, got, want)
		}
	}
}

// inPassing checks a database as a save does, with room for so many bytes.
func inPassing(t testing.TB, db []byte, room int64) (Contents, error) {
	t.Helper()
	check, err := newPassingCheck(t.Context(), t.TempDir(), room)
	if err != nil {
		t.Fatal(err)
	}
	defer check.Close()
	for at := 0; at < len(db); at += pieceSize {
		if err := check.look(db[at:min(len(db), at+pieceSize)]); err != nil {
			return Contents{}, err
		}
	}
	return check.contents(int64(len(db)))
}

// checkPassing compares what is found in passing with what is found in the file, and
// returns the error of the first.
func checkPassing(t testing.TB, db []byte) error {
	t.Helper()
	got, err := inPassing(t, db, 1<<40)
	if err != nil {
		if !errors.Is(err, errUnusual) {
			t.Errorf("error %v, not %v", err, errUnusual)
		}
		return err
	}
	want, err := inspect(t.Context(), writeFile(t, db), int64(len(db)), map[string]int64{})
	if err != nil {
		t.Errorf("found sound in passing: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in passing (-file +passing):\n%s", diff)
	}
	return nil
}

// oldDB is a database with a past: objects of many sizes that were written, changed,
// deleted and compacted away over many transactions, so that old pages lie about and
// runs of pages overlap those of before. No value has more than largest bytes.
func oldDB(t testing.TB, seed uint64, pageSize, largest int, syncFreelist bool) []byte {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 7))
	db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, &bolt.Options{PageSize: pageSize, NoFreelistSync: !syncFreelist, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	main := int64(1)
	var revisions [][]byte
	for round := range 40 {
		err := db.Update(func(tx *bolt.Tx) error {
			if err := makeBuckets(tx); err != nil {
				return err
			}
			keys := tx.Bucket(schema.Key.Name())
			for range random.IntN(60) {
				main++
				revision, kv := randomChange(random, main, largest)
				value, err := proto.Marshal(kv)
				if err != nil {
					return err
				}
				revisions = append(revisions, revision)
				if err := keys.Put(revision, value); err != nil {
					return err
				}
			}
			for range random.IntN(40) { // as compaction does
				if len(revisions) > 20 {
					at := random.IntN(len(revisions))
					if err := keys.Delete(revisions[at]); err != nil {
						return err
					}
					revisions = slices.Delete(revisions, at, at+1)
				}
			}
			return fillOthers(tx, random, uint64(round))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return contentOf(t, db)
}

// randomChange is a change of a key: a value of up to some megabytes, encrypted or
// not, a deletion, or the mark of a restore.
func randomChange(random *rand.Rand, main int64, largest int) (revision []byte, kv *mvccpb.KeyValue) {
	revision = mvcc.RevToBytes(mvcc.Revision{Main: main, Sub: random.Int64N(3)}, mvcc.NewRevBytes())
	kv = &mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/%s/ns/o%d", []string{"pods", "apps.example.com/widgets", "secrets"}[random.IntN(3)], random.IntN(300))}
	sizes := []int{0, 1, 100, 1000, 4000, 9000, 30_000, 200_000}
	size := sizes[random.IntN(len(sizes))]
	switch random.IntN(40) {
	case 0:
		kv.Key = nil
	case 1, 2, 3, 4:
		return append(revision, 't'), kv
	case 5:
		size = 3 << 20
	case 6, 7, 8:
		kv.Value = fmt.Appendf(nil, "k8s:enc:secretbox:v1:key%d:", random.IntN(3))
	}
	for range min(size, largest) / 8 {
		kv.Value = binary.LittleEndian.AppendUint64(kv.Value, random.Uint64())
	}
	kv.ModRevision, kv.CreateRevision, kv.Version, kv.Lease = main, main-1, 2, random.Int64N(2)
	return revision, kv
}

// fillOthers fills the buckets beside that of objects.
func fillOthers(tx *bolt.Tx, random *rand.Rand, round uint64) error {
	meta, leases, members := tx.Bucket(schema.Meta.Name()), tx.Bucket(schema.Lease.Name()), tx.Bucket(schema.Members.Name())
	number := binary.BigEndian.AppendUint64(nil, round)
	failed := []error{
		meta.Put(schema.MetaStorageVersionName, []byte("3.6.0")), meta.Put(schema.MetaConsistentIndexKeyName, number), meta.Put(schema.MetaTermKeyName, number),
		members.Put([]byte("8e9e05c52164694d"), []byte(`{"name":"m1","peerURLs":["https://192.0.2.1:2380"]}`)),
	}
	for range random.IntN(200) {
		lease := binary.BigEndian.AppendUint64(nil, random.Uint64())
		failed = append(failed, leases.Put(lease, append(lease, "ttl"...)))
	}
	return errors.Join(failed...)
}

// TestPassing checks sound databases in passing: each is taken, and the same is
// found as in the file.
func TestPassing(t *testing.T) {
	t.Parallel()
	dbs := map[string][]byte{
		"empty": makeDB(t, 0, false), "small": makeDB(t, 3, false), "some": makeDB(t, 500, false), "free list": makeDB(t, 200, true),
	}
	for seed := range uint64(12) {
		pageSize, largest := []int{4096, 4096, 16384, 65536}[seed%4], 30_000
		if seed < 2 {
			largest = 3 << 20
		}
		dbs[fmt.Sprintf("seed %d, pages of %d", seed, pageSize)] = oldDB(t, seed, pageSize, largest, seed%3 == 0)
	}
	for name, db := range dbs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := checkPassing(t, db); err != nil {
				t.Errorf("%d bytes: %v", len(db), err)
			}
		})
	}
}

// TestPassingDamage changes a byte, or the number of pages of a run, at many places:
// what is still found sound in passing is so in the file too, with the same contents.
func TestPassingDamage(t *testing.T) {
	t.Parallel()
	db := oldDB(t, 3, 4096, 1000, true)
	random := rand.New(rand.NewPCG(5, 6))
	refused := 0
	const places = 1000
	for range places {
		page := random.IntN(len(db)/4096) * 4096
		at := page + []int{random.IntN(16), random.IntN(200), random.IntN(4096)}[random.IntN(3)]
		was := db[at]
		db[at] ^= byte(1 + random.IntN(255))
		if checkPassing(t, db) != nil {
			refused++
		}
		db[at] = was
		if t.Failed() {
			t.Fatalf("at %d of page %d", at-page, page/4096)
		}
	}
	if refused < places/20 || refused == places {
		t.Errorf("%d of %d refused", refused, places)
	}
}

// An old run of pages does not hide a live page that lies in it, whatever the old
// one says of its length.
func TestPassingOverlaps(t *testing.T) {
	t.Parallel()
	const pageSize = 4096
	db := makeDB(t, 300, false)
	m, err := findMeta(bytes.NewReader(db), int64(len(db)))
	if err != nil {
		t.Fatal(err)
	}
	w := &pageWalk{from: func(id uint64) ([]byte, error) { return db[id*pageSize:], nil }, meta: m, tick: t.Context().Err}
	if err := w.all(); err != nil {
		t.Fatal(err)
	}
	le, free := binary.LittleEndian, 0
	for id := uint64(2); id < m.pages; id++ {
		if w.seen[id/64]&(1<<(id%64)) != 0 {
			continue
		}
		free++
		b := db[id*pageSize:]
		le.PutUint64(b, id)
		le.PutUint16(b[8:], flagLeaf)
		le.PutUint32(b[12:], uint32(m.pages-id-1))
	}
	if free < 5 {
		t.Fatalf("%d free pages", free)
	}
	if err := checkPassing(t, db); err != nil {
		t.Error(err)
	}
}

// A database of which more would have to be noted than there may be is inspected as
// a file.
func TestPassingWithoutRoom(t *testing.T) {
	t.Parallel()
	db := makeDB(t, 300, false)
	enough := int64(0)
	for room := int64(0); enough == 0; room += 8 << 10 {
		switch _, err := inPassing(t, db, room); {
		case err == nil:
			enough = room
		case !errors.Is(err, errUnusual):
			t.Fatalf("with room for %d bytes: %v", room, err)
		}
	}
	if enough == 0 || enough > int64(len(db))/2 {
		t.Errorf("%d bytes were needed for %d", enough, len(db))
	}
}

// TestSaveOfTheUnusual saves a database that cannot be checked in passing: it is
// streamed once more and checked as a file.
func TestSaveOfTheUnusual(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 5, 20<<10)
	if err := h.Stop(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(h.Root.EtcdData(), "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		outer, err := tx.CreateBucket([]byte("other"))
		if err != nil {
			return err
		}
		_, err = outer.CreateBucket([]byte("inner"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	h.waitHealthy(t)
	key := identity(t)
	opts := h.saveOptions()
	opts.Sealing = Sealing{Compress: true, Recipients: []age.Recipient{key.Recipient()}}
	again := false
	opts.step = func(name string) { again = again || name == stepAgain }
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !again {
		t.Error("checked in passing")
	}
	report, err := Verify(t.Context(), m.Path(opts.Dir), VerifyOptions{OpenOptions: OpenOptions{Identities: []age.Identity{key}, Scratch: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != 5 {
		t.Errorf("%d keys", report.Keys)
	}
	if left := leftovers(t, opts.Dir); len(left) != 2 {
		t.Errorf("in the folder: %v", left)
	}
}

// FuzzPassing overwrites a database at two places.
func FuzzPassing(f *testing.F) {
	f.Add(uint32(0), []byte("<html>"), uint32(0), []byte{}, false)
	f.Add(uint32(16), []byte{1, 2, 3, 4}, uint32(4096+40), []byte{0xff, 0xff}, true)
	f.Add(uint32(3*4096+8), []byte{0xff, 0xff}, uint32(2*4096+12), []byte{0xff, 0xff, 0xff, 0x7f}, false)
	f.Add(uint32(5*4096+12), []byte{3}, uint32(6*4096+8), []byte{2, 0, 1}, false)
	db := makeDB(f, 10, true)
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte, at2 uint32, bytes2 []byte, fix bool) {
		b := append([]byte(nil), db...)
		copy(b[int(at)%len(b):], bytes)
		copy(b[int(at2)%len(b):], bytes2)
		if fix {
			fixMeta(b)
		}
		_ = checkPassing(t, b)
	})
}
