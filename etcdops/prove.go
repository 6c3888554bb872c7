package etcdops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// askOnce asks one member for its status over a connection of its own.
func askOnce(ctx context.Context, files TLS, endpoint string) (_ *clientv3.StatusResponse, err error) {
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	return memberStatus(ctx, client, endpoint)
}

// prove waits until the restored member answers a read through its quorum, and
// checks that it holds what the snapshot held at the revision that it must have.
func prove(ctx context.Context, p RestorePlan) (_ Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.HealthTimeout)
	defer cancel()
	client, err := connect(ctx, p.TLS, p.Endpoint)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	status, err := waitHealthy(ctx, client, p)
	if err != nil {
		return Result{}, err
	}
	result := Result{Plan: p, Revision: status.Header.GetRevision()}
	if result.Revision < p.wantRevision() {
		return Result{}, fmt.Errorf("etcd answers with revision %d, the restored data must have at least %d: this is not the restored data", result.Revision, p.wantRevision())
	}
	if id := idText(status.Header.GetClusterId()); id != p.ClusterID {
		return Result{}, fmt.Errorf("etcd answers as cluster %s, it should be %s: this is not the data that it is to have", id, p.ClusterID)
	}
	if p.Undo { // what was only in its log is there as well now
		result.Keys, err = countKeys(ctx, client, result.Revision)
		return result, err
	}
	result.Keys, err = countKeys(ctx, client, p.wantRevision())
	if err != nil {
		return Result{}, err
	}
	if result.Keys != p.Snapshot.Keys {
		return Result{}, fmt.Errorf("the restored etcd has %d keys, the snapshot has %d", result.Keys, p.Snapshot.Keys)
	}
	return result, nil
}

// countKeys counts the keys at exactly the revision of the restored data, so
// that nothing written or expired since is in the count. Where that revision is
// compacted already, or lies before the snapshot's own compaction, it counts
// those of now.
func countKeys(ctx context.Context, client *clientv3.Client, revision int64) (int64, error) {
	all := func(options ...clientv3.OpOption) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		response, err := client.Get(ctx, "\x00", append(options, clientv3.WithFromKey(), clientv3.WithCountOnly())...)
		if err != nil {
			return 0, fmt.Errorf("count keys of the restored etcd: %w", err)
		}
		return response.Count, nil
	}
	count, err := all(clientv3.WithRev(revision))
	if errors.Is(err, rpctypes.ErrCompacted) {
		return all()
	}
	return count, err
}

// waitHealthy polls the member until it has a leader and answers through the
// quorum. The last refusal is part of the error when time runs out.
func waitHealthy(ctx context.Context, client *clientv3.Client, p RestorePlan) (*clientv3.StatusResponse, error) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		status, err := healthyOnce(ctx, client, p.Endpoint)
		if err == nil {
			return status, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("etcd did not become healthy within %s: %w", p.HealthTimeout, err)
		case <-ticker.C:
		}
	}
}

func healthyOnce(ctx context.Context, client *clientv3.Client, endpoint string) (*clientv3.StatusResponse, error) {
	status, err := memberStatus(ctx, client, endpoint)
	if err != nil {
		return nil, err
	}
	if status.Leader == 0 {
		return nil, fmt.Errorf("etcd %s has no leader", endpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := client.Get(ctx, "health", clientv3.WithCountOnly()); err != nil {
		return nil, fmt.Errorf("read through the quorum by etcd %s: %w", endpoint, err)
	}
	return status, nil
}
