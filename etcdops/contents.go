package etcdops

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"os"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Contents is what etcd's own code reads out of a snapshot's database.
type Contents struct {
	// Revision is that of the last change that is still there; with Hash it
	// equals what `etcdutl snapshot status` prints. Compacted is the highest
	// revision that clients cannot ask for any more, 0 if none.
	Revision  int64 `json:"revision"`
	Compacted int64 `json:"compacted"`
	// Hash is a CRC-32 (Castagnoli) over all buckets, keys and values.
	Hash uint32 `json:"hash"`
	// Keys is how many keys are alive. Objects counts those of Kubernetes by
	// resource ("pods", "apps.example.com/widgets"), and Prefixes all of them by
	// how they begin (see prefixOf); both are filled where asked for.
	Keys     int64            `json:"keys"`
	Objects  map[string]int64 `json:"objects,omitempty"`
	Prefixes map[string]int64 `json:"prefixes,omitempty"`
	// RaftTerm and RaftIndex are of the last raft entry applied.
	RaftTerm  uint64 `json:"raftTerm"`
	RaftIndex uint64 `json:"raftIndex"`
	// StorageVersion is the version of the data format, "3.7.0", empty before
	// etcd 3.6.
	StorageVersion string `json:"storageVersion"`
	// Members are the names of the cluster's members.
	Members []string `json:"members,omitempty"`
	// PeerURLs are where they were to be reached, by name.
	PeerURLs map[string][]string `json:"peerURLs,omitempty"`
	// Alarms that are raised; they come back with a restore.
	Alarms []string `json:"alarms,omitempty"`
	// Encrypted tells that kube-apiserver has encrypted values at rest: without
	// the key, which is not in the snapshot, they cannot be read.
	Encrypted bool `json:"encrypted"`
	// EncryptedWith are the keys that did it, "secretbox:v1:key1", sorted: what
	// follows "k8s:enc:" in the values.
	EncryptedWith []string `json:"encryptedWith,omitempty"`
}

// inspect checks the database that is the first dbSize bytes of the file, page
// by page, then opens it with etcd's own storage code and reads all of it.
// Damage is an error that wraps ErrCorrupt, never a panic or a fault.
func inspect(ctx context.Context, path string, dbSize int64, objects map[string]int64) (Contents, error) {
	var found Contents
	err := guarded(func() error {
		if err := checkFile(ctx, path, dbSize); err != nil {
			return err
		}
		var err error
		found, err = readContents(ctx, path, objects)
		return err
	})
	if err == nil || ctx.Err() != nil {
		return found, errors.Join(err, ctx.Err())
	}
	var system *os.PathError
	if errors.As(err, &system) || errors.Is(err, ErrNotSnapshot) {
		return Contents{}, err
	}
	return Contents{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// guarded turns panics and memory faults of fn's goroutine into errors: a
// mapped file that shrinks or that the disk cannot read is answered with SIGBUS.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading it failed: %v", r)
		}
	}()
	return fn()
}

// checkFile maps the file, so that memory does not depend on its size, and
// checks its pages.
func checkFile(ctx context.Context, path string, dbSize int64) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	m, err := findMeta(f, dbSize)
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(dbSize), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "map", Path: path, Err: err}
	}
	defer func() { err = errors.Join(err, unix.Munmap(data)) }()
	return checkPages(data, m, ctx.Err)
}

// readContents opens the database as etcd does and reads every bucket once.
func readContents(ctx context.Context, path string, objects map[string]int64) (_ Contents, err error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: answerTimeout, NoStatistics: true})
	if err != nil {
		return Contents{}, fmt.Errorf("open as etcd does: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var found Contents
	err = db.View(func(tx *bolt.Tx) error {
		for _, b := range etcdBuckets {
			if tx.Bucket(b.Name()) == nil {
				return fmt.Errorf("%w: it is the database of another program, without etcd's bucket %q", ErrNotSnapshot, b.Name())
			}
		}
		if v := schema.ReadStorageVersionFromSnapshot(tx); v != nil {
			found.StorageVersion = v.String()
		}
		reader := newContentsReader(ctx, &found, objects != nil)
		if err := tx.ForEach(reader.bucket); err != nil {
			return err
		}
		reader.end()
		return nil
	})
	return found, err
}

// bucket is what etcd's schema says of one.
type bucket interface{ Name() []byte }

// etcdBuckets are those that every etcd makes when it first starts: a database that
// lacks one of them is not etcd's, however sound.
var etcdBuckets = []bucket{schema.Key, schema.Meta, schema.Members}

// contentsReader reads the buckets of a database in the order in which
// `etcdutl snapshot status` does, and makes the same hash.
type contentsReader struct {
	*Contents
	ctx   context.Context
	sum   uint32
	alive *keySet
	n     int
	read  func(k, v []byte) error // what is in the bucket
	// prefixes is nil where they are not asked for.
	prefixes      prefixCounts
	encryptedWith encryptedWith
}

func newContentsReader(ctx context.Context, found *Contents, prefixes bool) *contentsReader {
	r := &contentsReader{Contents: found, ctx: ctx, alive: newKeySet(), encryptedWith: encryptedWith{}}
	if prefixes {
		r.prefixes = prefixCounts{}
	}
	return r
}

// end fills in what is known when all is read.
func (r *contentsReader) end() {
	r.Hash, r.Keys = r.sum, int64(len(r.alive.keys))
	r.EncryptedWith = r.encryptedWith.sorted()
	if r.prefixes != nil {
		r.Prefixes, r.Objects = r.prefixes.sums()
	}
}

func (r *contentsReader) bucket(name []byte, b *bolt.Bucket) error {
	if b == nil {
		return fmt.Errorf("%q is no bucket", name)
	}
	if err := r.enter(name); err != nil {
		return err
	}
	err := b.ForEach(func(k, v []byte) error {
		r.hash(k, v)
		return r.pair(k, v)
	})
	if err != nil {
		return fmt.Errorf("bucket %q: %w", name, err)
	}
	return nil
}

// enter begins a bucket.
func (r *contentsReader) enter(name []byte) error {
	r.hash(name)
	switch string(name) {
	case string(schema.Key.Name()):
		r.read = r.key
	case string(schema.Meta.Name()):
		r.read = r.meta
	case string(schema.Members.Name()):
		r.read = r.member
	case string(schema.Alarm.Name()):
		r.read = r.alarm
	default:
		r.read = func([]byte, []byte) error { return nil }
	}
	return r.ctx.Err()
}

// pair reads a key and its value. Both are hashed by the caller, who may have only
// the head of the value.
func (r *contentsReader) pair(k, v []byte) error {
	if r.n++; r.n%1024 == 0 && r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	return r.read(k, v)
}

func (r *contentsReader) hash(parts ...[]byte) {
	for _, part := range parts {
		r.sum = crc32.Update(r.sum, castagnoli, part)
	}
}

// key reads one change of one key. Changes come in the order of revisions.
func (r *contentsReader) key(k, v []byte) error {
	if len(k) < 17 {
		return fmt.Errorf("revision %x is too short", k)
	}
	r.Revision = mvcc.BytesToRev(k).Main // panics on rubbish, which guarded turns into an error
	key, value, err := keyOf(v)
	if err != nil {
		return fmt.Errorf("revision %d: %w", r.Revision, err)
	}
	if bytes.HasPrefix(value, encryptedPrefix) {
		r.Encrypted = true
		r.encryptedWith.add(value)
	}
	if len(key) == 0 {
		return nil // the mark that a restore with a revision bump leaves
	}
	change := r.alive.add(key)
	if mvcc.IsTombstone(k) {
		change -= r.alive.remove(key)
	}
	if r.prefixes != nil && change != 0 {
		r.prefixes.add(key, change)
	}
	return nil
}

func (r *contentsReader) meta(k, v []byte) error {
	number := func(field *uint64) error {
		if len(v) != 8 {
			return fmt.Errorf("%s has %d bytes, not 8", k, len(v))
		}
		*field = binary.BigEndian.Uint64(v)
		return nil
	}
	switch string(k) {
	case string(schema.MetaConsistentIndexKeyName):
		return number(&r.RaftIndex)
	case string(schema.MetaTermKeyName):
		return number(&r.RaftTerm)
	case string(schema.ScheduledCompactKeyName), string(schema.FinishedCompactKeyName):
		if len(v) < 17 {
			return fmt.Errorf("%s has %d bytes, not 17", k, len(v))
		}
		r.Compacted = max(r.Compacted, mvcc.BytesToRev(v).Main)
	}
	return nil
}

func (r *contentsReader) member(_, v []byte) error {
	var m struct {
		Name     string   `json:"name"`
		PeerURLs []string `json:"peerURLs"`
	}
	if err := json.Unmarshal(v, &m); err != nil {
		return fmt.Errorf("read member: %w", err)
	}
	r.Members = append(r.Members, m.Name)
	if r.PeerURLs == nil {
		r.PeerURLs = map[string][]string{}
	}
	r.PeerURLs[m.Name] = append(r.PeerURLs[m.Name], m.PeerURLs...)
	return nil
}

func (r *contentsReader) alarm(k, _ []byte) error {
	var alarm pb.AlarmMember // etcd keeps it in the key
	if err := proto.Unmarshal(k, &alarm); err != nil {
		return fmt.Errorf("read alarm: %w", err)
	}
	r.Alarms = append(r.Alarms, alarm.Alarm.String())
	return nil
}

// encryptedPrefix begins what kube-apiserver has encrypted at rest; see
// https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/.
var encryptedPrefix = []byte("k8s:enc:")

// keyOf returns the key and the value of an encoded mvccpb.KeyValue without
// copying them, which makes reading a snapshot several times as fast.
func keyOf(v []byte) (key, value []byte, err error) {
	for len(v) > 0 {
		number, kind, n := protowire.ConsumeTag(v)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		v = v[n:]
		n = protowire.ConsumeFieldValue(number, kind, v)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		switch {
		case number == 1 && kind == protowire.BytesType: // KeyValue.key
			key, _ = protowire.ConsumeBytes(v)
		case number == 5 && kind == protowire.BytesType: // KeyValue.value
			value, _ = protowire.ConsumeBytes(v)
		}
		v = v[n:]
	}
	return key, value, nil
}

// keySet is the keys that are alive, by 128 bits of two seeded hashes: a
// database of millions of long keys is counted in a few dozen bytes for each.
type keySet struct {
	seeds [2]maphash.Seed
	keys  map[[2]uint64]struct{}
}

func newKeySet() *keySet {
	return &keySet{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, keys: map[[2]uint64]struct{}{}}
}

func (s *keySet) id(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key)}
}

// add and remove return how many keys they added or removed, 0 or 1.
func (s *keySet) add(key []byte) int64 {
	before := len(s.keys)
	s.keys[s.id(key)] = struct{}{}
	return int64(len(s.keys) - before)
}

func (s *keySet) remove(key []byte) int64 {
	before := len(s.keys)
	delete(s.keys, s.id(key))
	return int64(before - len(s.keys))
}
