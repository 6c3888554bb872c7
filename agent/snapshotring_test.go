package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
)

// takerRing is three hosts that take snapshots of one real cluster.
type takerRing struct {
	*etcdCluster
	t        *testing.T
	schedule calendar.Schedule
	blind    time.Duration
	takers   []*ringTaker

	mu sync.Mutex
	// hang makes the next save hang, as a host that dies in it; dead is whose it is.
	hang bool
	dead *ringTaker
}

// ringTaker is one of the hosts.
type ringTaker struct {
	*taker
	claims *etcdops.Claims // what it last opened
	cancel context.CancelFunc
	ended  chan struct{}
}

const takerTTL = 8 * time.Second

func (r *takerRing) start(name string) {
	spec := &hosts.Spec{Name: name, Cluster: "c", Snapshots: hosts.Snapshots{Destination: r.t.TempDir(), By: hosts.ByOne}}
	for _, other := range []string{"m0", "m1", "m2"} {
		if other != name {
			spec.Peers = append(spec.Peers, hosts.Peer{Name: other, Roles: []hosts.Role{hosts.RoleEtcd}})
		}
	}
	k := &ringTaker{ended: make(chan struct{})}
	k.taker = &taker{
		spec: spec, schedule: r.schedule, share: shareOf(spec, r.schedule, time.Now()), log: slog.New(slog.DiscardHandler), ttl: takerTTL,
		prune: func(context.Context) {},
		save:  func(ctx context.Context) (etcdops.Manifest, error) { return r.save(ctx, k) },
		open: func(context.Context) (claims *etcdops.Claims, err error) {
			k.claims, err = etcdops.OpenClaims(context.Background(), r.files, []string{r.endpoint(0), r.endpoint(1), r.endpoint(2)})
			return k.claims, err
		},
	}
	k.share.patience, k.share.blind, k.share.step = time.Minute, r.blind, time.Second
	ctx, cancel := context.WithCancel(r.t.Context())
	k.cancel = cancel
	r.takers = append(r.takers, k)
	go func() { defer close(k.ended); k.run(ctx) }()
}

func (r *takerRing) stopAll() {
	for _, k := range r.takers {
		k.cancel()
		<-k.ended
	}
}

// save takes a real snapshot of the ring, or dies in the middle.
func (r *takerRing) save(ctx context.Context, k *ringTaker) (etcdops.Manifest, error) {
	r.mu.Lock()
	dies := r.hang
	if dies {
		r.hang, r.dead = false, k
	}
	r.mu.Unlock()
	if dies {
		// Who is dead renews nothing and gives nothing back.
		if err := k.claims.Close(); err != nil {
			return etcdops.Manifest{}, err
		}
		<-ctx.Done()
		return etcdops.Manifest{}, errors.New("dead")
	}
	site := etcdops.Site{TLS: r.files, Self: k.share.self}
	for i := range r.configs {
		site.Members = append(site.Members, etcdops.Member{Name: fmt.Sprint("m", i), ClientURL: r.endpoint(i), PeerURL: r.configs[i].ListenPeerUrls[0].String()})
	}
	return etcdops.Save(ctx, etcdops.SaveOptions{Dir: k.spec.Snapshots.Destination, Cluster: "c", Host: k.share.self, Site: site, Version: "test"})
}

// taken are all snapshots of the ring, the oldest first.
func (r *takerRing) taken() []etcdops.Manifest {
	r.t.Helper()
	var all []etcdops.Manifest
	for _, k := range r.takers {
		entries, err := etcdops.List(k.spec.Snapshots.Destination)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Good() {
				all = append(all, *e.Manifest)
			}
		}
	}
	slices.SortFunc(all, func(a, b etcdops.Manifest) int { return a.Taken.Compare(b.Taken) })
	return all
}

// until waits until the snapshots are as they should be.
func (r *takerRing) until(what string, good func([]etcdops.Manifest) bool) []etcdops.Manifest {
	r.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		if all := r.taken(); good(all) {
			return all
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("waited for %s: %s", what, summary(r.taken()))
	return nil
}

func summary(all []etcdops.Manifest) (text string) {
	for _, m := range all {
		text += fmt.Sprintf("%s by %s; ", m.Taken.Format(time.TimeOnly), m.Host)
	}
	return text
}

// checkOneEach fails the test where a snapshot was taken that no moment called for
// after the one before it.
func (r *takerRing) checkOneEach(all []etcdops.Manifest) {
	r.t.Helper()
	for i, m := range all[1:] {
		if moment := r.schedule.Next(all[i].Taken); m.Taken.Before(moment) {
			r.t.Errorf("two snapshots of one moment: %s", summary(all))
		}
	}
}

// TestOneSnapshotForAll has three hosts share the moments of a schedule: one takes
// the snapshot; one that dies in it is replaced by another; and without a quorum
// each takes its own.
func TestOneSnapshotForAll(t *testing.T) {
	t.Parallel()
	r := &takerRing{etcdCluster: startEtcdCluster(t), t: t, schedule: mustParse(t, "*:*:00/6 UTC"), blind: 30 * time.Second}
	for _, name := range []string{"m0", "m1", "m2"} {
		r.start(name)
	}
	defer func() { r.stopAll() }()
	all := r.until("four snapshots", func(all []etcdops.Manifest) bool { return len(all) >= 4 })
	r.checkOneEach(all)

	r.mu.Lock()
	r.hang = true
	r.mu.Unlock()
	before := len(all)
	all = r.until("others to take over", func(all []etcdops.Manifest) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.dead != nil && len(all) >= before+2 && all[len(all)-1].Host != r.dead.share.self
	})
	r.checkOneEach(all)
	t.Logf("%s died in the middle: %s", r.dead.share.self, summary(all))

	r.stopAll()
	r.takers, r.blind = nil, 2*time.Second
	r.stop(0, 1)
	for _, name := range []string{"m0", "m1", "m2"} {
		r.start(name)
	}
	all = r.until("each host to take one of its own", func(all []etcdops.Manifest) bool {
		by := map[string]bool{}
		for _, m := range all {
			by[m.Host] = true
		}
		return len(by) == 3
	})
	if !all[0].WithoutQuorum {
		t.Error("its manifest does not say that there was no quorum")
	}
}
