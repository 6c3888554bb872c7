package etcdops

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

// makeDB writes a database in etcd's format with n keys and returns its bytes.
// syncFreelist adds a list of free pages, which etcd itself leaves out.
func makeDB(t testing.TB, n int, syncFreelist bool) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: !syncFreelist, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for round := range 3 { // several transactions leave free pages
		err = db.Update(func(tx *bolt.Tx) error {
			if err := makeBuckets(tx); err != nil {
				return err
			}
			for i := range n {
				rev := int64(round*n + i + 1)
				value, err := proto.Marshal(&mvccpb.KeyValue{Key: fmt.Appendf(nil, "/registry/pods/ns/p%d", i), Value: make([]byte, 200+i*37%6000), ModRevision: rev, Version: 1})
				if err != nil {
					return err
				}
				if err := tx.Bucket(schema.Key.Name()).Put(mvcc.RevToBytes(mvcc.Revision{Main: rev}, mvcc.NewRevBytes()), value); err != nil {
					return err
				}
			}
			meta := tx.Bucket(schema.Meta.Name())
			if err := meta.Put(schema.MetaStorageVersionName, []byte("3.7.0")); err != nil {
				return err
			}
			return meta.Put(schema.MetaConsistentIndexKeyName, binary.BigEndian.AppendUint64(nil, 7))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return contentOf(t, db)
}

// makeBuckets makes those that etcd has.
func makeBuckets(tx *bolt.Tx) error {
	for _, bucket := range schema.AllBuckets {
		if _, err := tx.CreateBucketIfNotExists(bucket.Name()); err != nil {
			return err
		}
	}
	return nil
}

// contentOf is the database as etcd sends it, without the trailer.
func contentOf(t testing.TB, db *bolt.DB) []byte {
	t.Helper()
	var content bytes.Buffer
	if err := db.View(func(tx *bolt.Tx) error { _, err := tx.WriteTo(&content); return err }); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

func withTrailer(db []byte) []byte {
	sum := sha256.Sum256(db)
	return append(bytes.Clone(db), sum[:]...)
}

func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerifyRefusesEachBadInput(t *testing.T) {
	t.Parallel()
	db := makeDB(t, 50, false)
	good := withTrailer(db)
	flip := func(at int) []byte { b := bytes.Clone(good); b[at] ^= 1; return b }
	var zipped bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	if _, err := gz.Write(good); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		content []byte
		want    error
		text    string
	}{
		"empty":                 {nil, ErrNotSnapshot, "is empty"},
		"HTML page":             {[]byte("\n<!DOCTYPE html><html><body>404</body></html>"), ErrNotSnapshot, "HTML"},
		"gzip file":             {zipped.Bytes(), ErrNotSnapshot, "gzip"},
		"JSON":                  {[]byte(`{"format":1}`), ErrNotSnapshot, "manifest"},
		"text":                  {[]byte("hello"), ErrNotSnapshot, "no bbolt database"},
		"zeros":                 {make([]byte, 8192), ErrNotSnapshot, "no bbolt database"},
		"first page only":       {good[:4096], ErrTruncated, "has 4096 bytes"},
		"half":                  {good[:len(good)/2], ErrTruncated, "its database alone has"},
		"half of the trailer":   {good[:len(good)-16], ErrTruncated, "neither"},
		"one byte short":        {good[:len(good)-1], ErrTruncated, "neither"},
		"one byte more":         {append(bytes.Clone(good), 0), ErrTruncated, "neither"},
		"no trailer":            {db, ErrNoTrailer, "skip the hash check"},
		"bit in a value":        {flip(len(db) - 3), ErrHashMismatch, "bit"},
		"bit in the first page": {flip(20), ErrHashMismatch, "bit"},
		"bit in both metas":     {func() []byte { b := flip(20); b[4096+20] ^= 1; return b }(), ErrNotSnapshot, "no bbolt database"},
		"bit in the trailer":    {flip(len(good) - 1), ErrHashMismatch, "bit"},
		"another page appended": {append(bytes.Clone(good), make([]byte, 4096)...), ErrHashMismatch, "bit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(t.Context(), writeFile(t, tc.content), VerifyOptions{})
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}

	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", "snap", "db"), db, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), dir, VerifyOptions{}); !errors.Is(err, ErrNotSnapshot) || !strings.Contains(err.Error(), "member/snap/db") {
		t.Errorf("data folder: %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), pipe, VerifyOptions{}); !errors.Is(err, ErrNotSnapshot) {
		t.Errorf("pipe: %v", err)
	}
	if _, err := Verify(t.Context(), filepath.Join(dir, "none"), VerifyOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, writeFile(t, good), VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestVerifyAcceptsAGoodOne(t *testing.T) {
	t.Parallel()
	for _, freelist := range []bool{false, true} {
		db := makeDB(t, 300, freelist)
		report, err := Verify(t.Context(), writeFile(t, withTrailer(db)), VerifyOptions{Objects: true})
		if err != nil {
			t.Fatal(err)
		}
		if !report.Trailer || report.Keys != 300 || report.Revision != 900 || report.RaftIndex != 7 || report.StorageVersion != "3.7.0" || report.Objects["pods"] != 300 || report.Manifest != nil {
			t.Errorf("report %+v", report)
		}
		bare, err := Verify(t.Context(), writeFile(t, db), VerifyOptions{SkipHash: true})
		if err != nil || bare.Trailer || bare.Hash != report.Hash {
			t.Errorf("without a trailer: %+v, %v", bare, err)
		}
	}
}

// A sound database of another program (containerd has one too) is no snapshot,
// with or without a trailer.
func TestVerifyRefusesAnotherProgramsDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("meta")); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, writeFile(t, withTrailer(content))} {
		if _, err := Verify(t.Context(), file, VerifyOptions{SkipHash: true}); !errors.Is(err, ErrNotSnapshot) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want %v", filepath.Base(file), err, ErrNotSnapshot)
		}
	}
}

func TestVerifyComparesTheManifest(t *testing.T) {
	t.Parallel()
	one, other := withTrailer(makeDB(t, 20, false)), withTrailer(makeDB(t, 21, false))
	path := writeFile(t, one)
	report, err := Verify(t.Context(), path, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := Manifest{Format: 1, Cluster: "c", Host: "h", Size: report.Size, SHA256: report.SHA256, Revision: report.Revision, Keys: report.Keys}
	if err := writeManifest(path, m); err != nil {
		t.Fatal(err)
	}
	if report, err = Verify(t.Context(), path, VerifyOptions{}); err != nil || report.Manifest == nil {
		t.Errorf("with its manifest: %+v, %v", report.Manifest, err)
	}
	for name, edit := range map[string]func(*Manifest){"revision": func(m *Manifest) { m.Revision++ }, "keys": func(m *Manifest) { m.Keys++ }, "hash": func(m *Manifest) { m.Hash = report.Hash + 1 }} {
		edited := m
		edit(&edited)
		if err := writeManifest(path, edited); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), path, VerifyOptions{}); !errors.Is(err, ErrManifestMismatch) {
			t.Errorf("edited %s: %v, want %v", name, err, ErrManifestMismatch)
		}
	}
	if err := writeManifest(path, m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), path, VerifyOptions{}); !errors.Is(err, ErrManifestMismatch) {
		t.Errorf("another snapshot: %v, want %v", err, ErrManifestMismatch)
	}
	for _, content := range []string{"{", `{"format":2}`, `{}`} {
		if err := os.WriteFile(manifestPath(path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), path, VerifyOptions{}); !errors.Is(err, ErrManifestMismatch) {
			t.Errorf("manifest %q: %v, want %v", content, err, ErrManifestMismatch)
		}
	}
}

// TestDamageInsideIsAnError breaks one word of the structure at a time where no
// hash guards it, and expects an error or an unharmed result, never a crash.
func TestDamageInsideIsAnError(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, freelist := range []bool{false, true} {
		db := makeDB(t, 40, freelist)
		path := writeFile(t, db)
		pages := len(db) / 4096
		noticed := 0
		const rounds = 300
		for i := range rounds {
			b := bytes.Clone(db)
			// Headers and elements are at the beginning of a page.
			at := random.IntN(pages)*4096 + random.IntN(64)
			switch i % 3 {
			case 0:
				b[at] ^= 1 << random.IntN(8)
			case 1:
				binary.LittleEndian.PutUint32(b[at&^3:], random.Uint32())
			case 2:
				binary.LittleEndian.PutUint64(b[at&^7:], ^uint64(0))
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(t.Context(), path, VerifyOptions{SkipHash: true}); err != nil {
				noticed++
			}
		}
		t.Logf("free list %v: %d of %d noticed without a hash", freelist, noticed, rounds)
		if noticed < rounds/8 {
			t.Errorf("only %d of %d damages were noticed", noticed, rounds)
		}
	}
}

// fixMeta makes the meta pages of mutated bytes valid again, so that a fuzzer
// gets past them.
func fixMeta(b []byte) {
	for _, at := range []int{0, 4096} {
		if len(b) < at+80 {
			return
		}
		m := b[at+16 : at+80]
		binary.LittleEndian.PutUint32(m, boltMagic)
		binary.LittleEndian.PutUint32(m[4:], boltVersion)
		h := fnv.New64a()
		h.Write(m[:56])
		binary.LittleEndian.PutUint64(m[56:], h.Sum64())
	}
}

// FuzzVerify overwrites a database with bytes at a place and expects any answer
// but a crash.
func FuzzVerify(f *testing.F) {
	f.Add(uint32(0), []byte("<html>"), false)
	f.Add(uint32(16), []byte{1, 2, 3, 4}, true)
	f.Add(uint32(4096+40), []byte{0xff, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add(uint32(3*4096+8), []byte{0xff, 0xff}, false)
	f.Add(uint32(2*4096+12), []byte{0xff, 0xff, 0xff, 0x7f}, false)
	db, path := makeDB(f, 10, true), filepath.Join(f.TempDir(), "fuzzed.db")
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte, fix bool) {
		b := append([]byte(nil), db...)
		copy(b[int(at)%len(b):], bytes)
		if fix {
			fixMeta(b)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := Verify(t.Context(), path, VerifyOptions{SkipHash: true, Objects: true})
		if err == nil && report.Size != int64(len(b)) {
			t.Errorf("report %+v", report)
		}
	})
}

// TestTruncationAnywhere cuts a snapshot at every 512 bytes and around.
func TestTruncationAnywhere(t *testing.T) {
	t.Parallel()
	good := withTrailer(makeDB(t, 5, false))
	path := writeFile(t, good)
	for size := len(good) - 1; size >= 0; size-- {
		if r := size % 512; r > 1 && r < 31 || r > 33 && r < 511 {
			continue
		}
		if err := os.Truncate(path, int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), path, VerifyOptions{}); err == nil {
			t.Fatalf("cut to %d of %d bytes, and not noticed", size, len(good))
		}
	}
}
