package agent

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// snapshotRetry is the pause after a scheduled snapshot that failed.
const snapshotRetry = time.Minute

// EtcdTLS names the client certificate with which nodeagent speaks to etcd.
func EtcdTLS(root layout.Root) etcdops.TLS {
	files := root.Certificate(layout.CertNodeagentEtcdClient)
	return etcdops.TLS{Cert: files.Cert, Key: files.Key, CA: root.Trust(layout.CAEtcdServer)}
}

// SaveSnapshot takes a snapshot of this host's etcd member into the folder.
func (h *Host) SaveSnapshot(ctx context.Context, dir, version string, progress func(done, total int64)) (etcdops.Manifest, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) {
		return etcdops.Manifest{}, errNoEtcd(spec)
	}
	site, err := h.EtcdSite()
	if err != nil {
		return etcdops.Manifest{}, err
	}
	sealing, err := h.sealing(ctx)
	if err != nil {
		return etcdops.Manifest{}, err
	}
	return etcdops.Save(ctx, etcdops.SaveOptions{
		Signer:       h.signer(),
		Sealing:      sealing,
		Scratch:      h.root.Scratch(),
		Surroundings: h.Surroundings(ctx),
		Dir:          dir, Cluster: spec.Cluster, Host: spec.Name,
		Site:    site,
		Version: version, Progress: progress,
	})
}

// encryptionKeys are the fingerprints of this host's encryption-at-rest keys.
// One that cannot be read keeps nobody from saving or restoring.
func (h *Host) encryptionKeys() []string {
	keys, err := pki.EncryptionKeys(h.root)
	if err != nil {
		h.log.Warn("the encryption key is not known", "error", err)
	}
	return keys
}

// retiredKeys are the fingerprints of the keys that were dropped.
func (h *Host) retiredKeys() []string {
	keys, err := pki.RetiredKeys(h.root)
	if err != nil {
		h.log.Warn("the dropped encryption keys are not known", "error", err)
	}
	return keys
}

// nextSnapshot is when the schedule calls for a snapshot, the newest good one
// that is not dated in the future being from the given moment (zero: there is
// none). Moments that were missed while the host was down are made up for at
// once, by one snapshot.
func nextSnapshot(schedule calendar.Schedule, newest, now time.Time) time.Time {
	if newest.IsZero() {
		return now
	}
	next := schedule.Next(newest.In(now.Location())) // manifests are in UTC
	if next.IsZero() || next.After(now) {
		return next
	}
	return now
}

// snapshotter takes the scheduled snapshots of one host in a goroutine of its
// own, for a snapshot may take minutes and must not hold a converge up.
type snapshotter struct {
	spec string // the digest of the spec that is followed
	background
}

// follow takes snapshots as the host's spec says. While that does not change
// it does nothing; otherwise it ends what was scheduled before. It begins once
// etcd has been healthy, for before that there is nothing to save.
func (s *snapshotter) follow(ctx context.Context, h *Host, version string) {
	spec := h.Spec()
	if s.spec == spec.Digest {
		return
	}
	s.stop()
	if !spec.Has(hosts.RoleEtcd) || spec.Snapshots.Schedule == "" {
		s.spec = spec.Digest
		return
	}
	if !etcdops.Initialised(h.root) {
		return
	}
	schedule, err := calendar.Parse(spec.Snapshots.Schedule)
	if err != nil {
		panic(err) // a spec with another schedule is never valid
	}
	s.spec = spec.Digest
	s.begin(ctx, newTaker(h, spec, schedule, version).run)
}

// newestSnapshot is when the newest good snapshot of the spec's folder was
// taken, zero if there is none.
func newestSnapshot(log *slog.Logger, spec *hosts.Spec, now time.Time) time.Time {
	entries, err := etcdops.List(spec.Snapshots.Destination)
	if err != nil {
		log.Error("the folder of snapshots cannot be read", "error", err)
	}
	newest, _ := newestOwn(entries, spec, now)
	return newest.Taken
}

// newestOwn picks the newest good snapshot of this host's cluster: the folder
// may be shared with others. One that is dated in the future, from a time when
// the clock was wrong, does not count: the next one would never be newer, so that
// one snapshot would follow the other without a pause.
func newestOwn(entries []etcdops.Entry, spec *hosts.Spec, now time.Time) (etcdops.Entry, bool) {
	return etcdops.Newest(slices.DeleteFunc(slices.Clone(entries), func(e etcdops.Entry) bool {
		return e.Ahead(now) || e.Manifest == nil || e.Manifest.Cluster != spec.Cluster || e.Manifest.Host != spec.Name
	}))
}

// overdue tells whether two moments of the schedule have passed since the
// newest snapshot: one may be under way or tried again, two mean that nobody
// takes them. Zero is never overdue.
func overdue(schedule calendar.Schedule, newest, now time.Time) bool {
	if newest.IsZero() {
		return false
	}
	next := schedule.Next(newest.In(now.Location()))
	if next.IsZero() {
		return false
	}
	second := schedule.Next(next)
	return !second.IsZero() && second.Before(now)
}

// newTaker takes the scheduled snapshots of a host with the given spec.
func newTaker(h *Host, spec *hosts.Spec, schedule calendar.Schedule, version string) *taker {
	dir := spec.Snapshots.Destination
	return &taker{
		spec: spec, schedule: schedule, share: shareOf(spec, schedule, time.Now()), log: h.log, ttl: shareTTL,
		save: func(ctx context.Context) (etcdops.Manifest, error) {
			began := time.Now()
			m, err := h.SaveSnapshot(ctx, dir, version, nil)
			h.figures.saved(time.Since(began), err)
			if err == nil {
				h.copySoon()
			}
			return m, err
		},
		prune: func(ctx context.Context) { pruneSnapshots(ctx, h) },
		open: func(ctx context.Context) (*etcdops.Claims, error) {
			return etcdops.OpenClaims(context.WithoutCancel(ctx), EtcdTLS(h.root), etcdEndpoints(spec))
		},
	}
}

// pruneSnapshots deletes the snapshots that no rule of the spec keeps, and that
// no further place waits for.
func pruneSnapshots(ctx context.Context, h *Host) {
	_, dropped, err := h.Copies().PruneLocal(ctx, time.Now())
	for _, d := range dropped {
		h.log.Info("snapshot deleted", "file", d.Entry.Path, "because", d.Reason)
	}
	if err != nil {
		h.log.Error("old snapshots were not deleted", "error", err)
	}
}

// sleepUntil tells whether the moment came before ctx was done.
func sleepUntil(ctx context.Context, moment time.Time) bool {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
