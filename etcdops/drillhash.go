package etcdops

import (
	"context"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// KVHash is the hash over all keys at a revision by which etcd's members compare
// themselves (HashKV).
type KVHash struct {
	Hash      uint32 `json:"hash"`
	Revision  int64  `json:"revision"`
	Compacted int64  `json:"compacted"`
}

// hashKV computes from a snapshot's database the hash that an etcd answers that
// serves it: over the name of the bucket and all changes, in their order. Of the
// changes up to the last compaction only those count that still are the last of
// their keys. See kvHasher in etcd's server/storage/mvcc.
func hashKV(ctx context.Context, path string) (found KVHash, err error) {
	err = guarded(func() error {
		found, err = readHash(ctx, path)
		return err
	})
	if err != nil {
		return KVHash{}, fmt.Errorf("hash the keys of the snapshot: %w", err)
	}
	return found, nil
}

func readHash(ctx context.Context, path string) (found KVHash, err error) {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: answerTimeout, NoStatistics: true})
	if err != nil {
		return KVHash{}, err
	}
	defer func() {
		if closeErr := db.Close(); err == nil {
			err = closeErr
		}
	}()
	err = db.View(func(tx *bolt.Tx) error {
		found.Compacted = compactedTo(tx)
		keys := tx.Bucket(schema.Key.Name())
		var last map[mvcc.Revision]bool
		if found.Compacted > 0 {
			if last, err = lastChanges(ctx, keys); err != nil {
				return err
			}
		}
		sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		sum.Write(schema.Key.Name())
		err = eachChange(ctx, keys, func(k, v []byte) error {
			at := mvcc.BytesToRev(k)
			found.Revision = at.Main
			if len(last) > 0 && at.Main <= found.Compacted && !last[at] || at.Main == found.Compacted && mvcc.IsTombstone(k) {
				return nil
			}
			sum.Write(k)
			sum.Write(v)
			return nil
		})
		found.Hash = sum.Sum32()
		return err
	})
	return found, err
}

// compactedTo is the revision up to which a compaction was asked for; where that
// was not done yet, etcd does it as it starts.
func compactedTo(tx *bolt.Tx) int64 {
	var compacted int64
	meta := tx.Bucket(schema.Meta.Name())
	for _, name := range [][]byte{schema.ScheduledCompactKeyName, schema.FinishedCompactKeyName} {
		if v := meta.Get(name); len(v) >= 17 {
			compacted = max(compacted, mvcc.BytesToRev(v).Main)
		}
	}
	return compacted
}

// lastChanges are the changes that made the keys which are alive what they are.
func lastChanges(ctx context.Context, keys *bolt.Bucket) (map[mvcc.Revision]bool, error) {
	ids := newKeySet()
	last := map[[2]uint64]mvcc.Revision{}
	err := eachChange(ctx, keys, func(k, v []byte) error {
		key, _, err := keyOf(v)
		if err != nil {
			return err
		}
		if mvcc.IsTombstone(k) {
			delete(last, ids.id(key))
		} else {
			last[ids.id(key)] = mvcc.BytesToRev(k)
		}
		return nil
	})
	alive := make(map[mvcc.Revision]bool, len(last))
	for _, at := range last {
		alive[at] = true
	}
	return alive, err
}

// eachChange calls fn for each change, in their order.
func eachChange(ctx context.Context, keys *bolt.Bucket, fn func(k, v []byte) error) error {
	cursor, n := keys.Cursor(), 0
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}
