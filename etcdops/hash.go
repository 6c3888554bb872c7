package etcdops

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hashTimeout bounds the hashing of one member's keys: it reads all of them.
const hashTimeout = 5 * time.Minute

// hashTries is how often hashes are asked for again when a compaction came
// between: hashes over differently compacted histories say nothing.
const hashTries = 4

// compareHashes has those members hash their keys, all at one revision.
func compareHashes(ctx context.Context, files TLS, v *View, which func(MemberView) bool) {
	var err error
	for range hashTries {
		if err = hashOnce(ctx, files, v, which); err == nil || ctx.Err() != nil {
			break
		}
	}
	v.HashError = ""
	if err != nil {
		v.HashRevision, v.HashError = 0, err.Error()
		for i := range v.Members {
			v.Members[i].Hash = 0
		}
	}
}

func hashOnce(ctx context.Context, files TLS, v *View, which func(MemberView) bool) error {
	v.HashRevision = 0
	for _, m := range v.Members {
		if which(m) && (v.HashRevision == 0 || m.Revision < v.HashRevision) {
			v.HashRevision = m.Revision
		}
	}
	if v.HashRevision == 0 {
		return errors.New("no member is in step")
	}
	answers := make([]*clientv3.HashKVResponse, len(v.Members))
	failed := make([]error, len(v.Members))
	var wait sync.WaitGroup
	for i, m := range v.Members {
		if which(m) {
			wait.Go(func() { answers[i], failed[i] = hashOf(ctx, files, m.Endpoint, v.HashRevision) })
		}
	}
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		// Compacted meanwhile, perhaps: the next try is at a later revision.
		for i, m := range v.Members {
			if status, err := askOnce(ctx, files, m.Endpoint); err == nil && which(m) {
				v.Members[i].Revision = status.Header.GetRevision()
			}
		}
		return err
	}
	var compacted int64
	for i, a := range answers {
		if a == nil {
			continue
		}
		if compacted != 0 && a.CompactRevision != compacted {
			return fmt.Errorf("hash keys at revision %d: members have compacted to revisions %d and %d", v.HashRevision, compacted, a.CompactRevision)
		}
		compacted = a.CompactRevision
		v.Members[i].Hash = a.Hash
	}
	return nil
}

func hashOf(ctx context.Context, files TLS, endpoint string, revision int64) (_ *clientv3.HashKVResponse, err error) {
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	answer, err := client.HashKV(ctx, endpoint, revision)
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s for the hash of its keys: %w", endpoint, err)
	}
	return answer, nil
}
