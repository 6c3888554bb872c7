package etcdops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// compareTimeout bounds one question to a throwaway, which may have next to no
// CPU and disk.
const compareTimeout = 2 * time.Minute

// compare asks the booted etcd for what the snapshot must have made of it.
func (d *driller) compare(ctx context.Context, throwaway *Throwaway) error {
	client := throwaway.Client()
	status, err := memberStatus(ctx, client, throwaway.Endpoint())
	if err != nil {
		return err
	}
	d.report.EtcdVersion = status.Version
	// An etcd without any change begins at 1; one whose last changes are compacted
	// away stays where it was.
	want := max(1, d.found.Revision, d.found.Compacted)
	if got := status.Header.GetRevision(); got != want {
		return fmt.Errorf("the etcd that was booted is at revision %d, the snapshot at %d", got, want)
	}
	if err := d.compareHash(ctx, throwaway, want); err != nil {
		return err
	}
	keys, err := countRange(ctx, client, "\x00", clientv3.WithFromKey())
	if err != nil {
		return err
	}
	if keys != d.found.Keys {
		return fmt.Errorf("the etcd that was booted has %d keys, the snapshot %d", keys, d.found.Keys)
	}
	return d.compareObjects(ctx, client)
}

// hashAgain is how often and hashPause after which time the hash is asked for
// again of an etcd that may not be done with the compaction that it found.
const (
	hashAgain = 10
	hashPause = time.Second
)

func (d *driller) compareHash(ctx context.Context, throwaway *Throwaway, revision int64) error {
	var answer *clientv3.HashKVResponse
	for try := 0; ; try++ {
		var err error
		if answer, err = hashOnceOf(ctx, throwaway, revision); err != nil {
			return err
		}
		if answer.Hash == d.hash.Hash || d.hash.Compacted == 0 || try == hashAgain {
			break
		}
		if err := pause(ctx, hashPause); err != nil {
			return err
		}
	}
	if answer.Hash != d.hash.Hash {
		return fmt.Errorf("the keys of the etcd that was booted have the hash %08x at revision %d (compacted to %d), those in the snapshot %08x (compacted to %d): "+
			"etcd has read something else than what is there", answer.Hash, answer.HashRevision, answer.CompactRevision, d.hash.Hash, d.hash.Compacted)
	}
	d.report.KVHash = &d.hash
	return nil
}

func hashOnceOf(ctx context.Context, throwaway *Throwaway, revision int64) (*clientv3.HashKVResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	answer, err := throwaway.Client().HashKV(ctx, throwaway.Endpoint(), revision)
	if err != nil {
		return nil, fmt.Errorf("ask the etcd that was booted for the hash of its keys: %w", err)
	}
	return answer, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// countRange counts the keys from the given one on, as the options say.
func countRange(ctx context.Context, client *clientv3.Client, from string, options ...clientv3.OpOption) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	answer, err := client.Get(ctx, from, append(options, clientv3.WithCountOnly())...)
	if err != nil {
		return 0, fmt.Errorf("count the keys of the etcd that was booted: %w", err)
	}
	return answer.Count, nil
}

// compareObjects counts the objects of each resource and decodes some of them.
// Damage in many is told of as one error.
func (d *driller) compareObjects(ctx context.Context, client *clientv3.Client) error {
	var failed []error
	for _, resource := range slices.Sorted(maps.Keys(d.found.Objects)) {
		if err := d.compareResource(ctx, client, resource); err != nil {
			failed = append(failed, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(failed) == shownDamage {
			failed = append(failed, errors.New("and perhaps more"))
			break
		}
	}
	return errors.Join(failed...)
}

// shownDamage is of how many resources damage is told.
const shownDamage = 5

func (d *driller) compareResource(ctx context.Context, client *clientv3.Client, resource string) error {
	prefix := registry + resource + "/"
	count, err := countRange(ctx, client, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if want := d.found.Objects[resource]; count < want {
		return fmt.Errorf("the etcd that was booted has %d %s, the snapshot %d", count, resource, want)
	}
	d.report.Objects.Resources++
	for _, from := range sampleStarts(prefix) {
		if err := d.sample(ctx, client, from, prefix); err != nil {
			return fmt.Errorf("%s: %w", resource, err)
		}
	}
	return nil
}

// sample decodes the first object from the given key on that the prefix has.
func (d *driller) sample(ctx context.Context, client *clientv3.Client, from, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	page, err := client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(1))
	if err != nil {
		return fmt.Errorf("read from the etcd that was booted: %w", err)
	}
	for _, kv := range page.Kvs {
		if err := d.report.Objects.add(string(kv.Key), kv.Value, d.OpenValue); err != nil {
			return fmt.Errorf("decode %q: %w", kv.Key, err)
		}
	}
	return nil
}
