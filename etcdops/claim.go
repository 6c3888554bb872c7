package etcdops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// claimPrefix is where nodeagent's own keys lie in etcd, beside Kubernetes'
// /registry.
const claimPrefix = "/nodeagent/claims/"

// Claims are things that one host of the cluster holds at a time: each is a key
// in etcd under a lease, which etcd removes when its holder has not renewed it
// for the lease's time.
type Claims struct {
	client *clientv3.Client
	// Timeout bounds each single request; [answerTimeout] unless set.
	Timeout time.Duration
}

// Claim is one thing as etcd knows it. The zero Holder means that nobody has it.
type Claim struct {
	Name, Holder string
	lease        clientv3.LeaseID
	revision     int64 // of the answer, from which Changed watches
}

// ErrClaimLost is the error of renewing a claim that has lapsed or that another
// host holds.
var ErrClaimLost = errors.New("the claim is no longer held")

// OpenClaims makes a client of the members at the endpoints (client URLs); it
// connects when it is used. The certificate is read anew at each connection.
func OpenClaims(ctx context.Context, files TLS, endpoints []string) (*Claims, error) {
	cfg, err := files.config()
	if err != nil {
		return nil, err
	}
	cfg.Certificates = nil
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		return &pair, err
	}
	client, err := newClient(clientv3.Config{
		Context: ctx, Endpoints: endpoints, TLS: cfg,
		DialKeepAliveTime: answerTimeout, DialKeepAliveTimeout: answerTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &Claims{client: client, Timeout: answerTimeout}, nil
}

// Close closes the connections; claims stay until they lapse.
func (c *Claims) Close() error { return closeClient(c.client) }

// Look asks who holds the claim. The answer went through the quorum, so it is
// what the whole cluster agrees on; without a quorum it is an error.
func (c *Claims) Look(ctx context.Context, name string) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	answer, err := c.client.Get(ctx, claimPrefix+name)
	if err != nil {
		return Claim{}, fmt.Errorf("ask etcd who holds %q: %w", name, err)
	}
	claim := Claim{Name: name, revision: answer.Header.Revision}
	for _, kv := range answer.Kvs {
		claim.Holder, claim.lease = string(kv.Value), clientv3.LeaseID(kv.Lease)
	}
	return claim, nil
}

// Take claims what nobody holds, for ttl (whole seconds, at least 2) from now.
// The answer says who holds it afterwards, which may be another host that was
// faster.
func (c *Claims) Take(ctx context.Context, name, host string, ttl time.Duration) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	lease, err := c.client.Grant(ctx, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return Claim{}, fmt.Errorf("ask etcd for a lease for %q: %w", name, err)
	}
	key := claimPrefix + name
	answer, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, host, clientv3.WithLease(lease.ID))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		// Whether it was written is not known: the next look tells.
		return Claim{}, fmt.Errorf("claim %q in etcd: %w", name, err)
	}
	claim := Claim{Name: name, Holder: host, lease: lease.ID, revision: answer.Header.Revision}
	if answer.Succeeded {
		return claim, nil
	}
	for _, kv := range answer.Responses[0].GetResponseRange().Kvs {
		claim.Holder, claim.lease = string(kv.Value), clientv3.LeaseID(kv.Lease)
	}
	if _, err := c.client.Revoke(ctx, lease.ID); err != nil {
		return claim, fmt.Errorf("give back the lease for %q, which %s holds: %w", name, claim.Holder, err)
	}
	return claim, nil
}

// Renew starts the time of a held claim anew. [ErrClaimLost] means that it has
// lapsed; any other error leaves open whether it was renewed.
func (c *Claims) Renew(ctx context.Context, claim Claim) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	_, err := c.client.KeepAliveOnce(ctx, claim.lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("renew %q: %w", claim.Name, ErrClaimLost)
	}
	if err != nil {
		return fmt.Errorf("renew %q in etcd: %w", claim.Name, err)
	}
	return nil
}

// Release gives a held claim back at once. One that has lapsed is no error.
func (c *Claims) Release(ctx context.Context, claim Claim) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if _, err := c.client.Revoke(ctx, claim.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("release %q in etcd: %w", claim.Name, err)
	}
	return nil
}

// Changed waits until the claim is no longer as it was looked at, until etcd
// cannot be watched, or until ctx is done. It says nothing of what it is now:
// look again.
func (c *Claims) Changed(ctx context.Context, claim Claim) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := c.client.Watch(ctx, claimPrefix+claim.Name, clientv3.WithRev(claim.revision+1))
	for answer := range watch {
		if answer.Err() != nil || len(answer.Events) > 0 {
			return
		}
	}
}
