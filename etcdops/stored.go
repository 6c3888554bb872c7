package etcdops

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// storedPage is how many values are read at once. Secrets may have a megabyte
// each; most have a few kilobytes.
const storedPage = 100

// NotBeginning lists the keys below prefix, in their order, whose values do not
// begin with begin. All values are of one revision, which the quorum has agreed
// on, so that nothing that was written before is missed.
func NotBeginning(ctx context.Context, files TLS, endpoints []string, prefix string, begin []byte) (keys []string, err error) {
	cfg, err := files.config()
	if err != nil {
		return nil, err
	}
	client, err := newClient(clientv3.Config{Context: ctx, Endpoints: endpoints, TLS: cfg})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	from, revision := prefix, int64(0)
	for {
		page, err := storedAt(ctx, client, from, prefix, revision)
		if err != nil {
			return nil, fmt.Errorf("read %s from etcd: %w", prefix, err)
		}
		for _, kv := range page.Kvs {
			if !bytes.HasPrefix(kv.Value, begin) {
				keys = append(keys, string(kv.Key))
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return keys, nil
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// storedAt reads one page; revision 0 is the newest.
func storedAt(ctx context.Context, client *clientv3.Client, from, prefix string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 6*answerTimeout)
	defer cancel()
	return client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(storedPage), clientv3.WithRev(revision))
}
