package etcdops

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// DefaultRevisionBump is by how much a restore raises the revision: more than a
// cluster with 1,500 writes a second makes in a week, so that no client has
// seen a higher one.
const DefaultRevisionBump = 1_000_000_000

// RestorePlan is what a restore will do; it was made from a snapshot that
// passed every check. It is plain data, and holds no secret.
type RestorePlan struct {
	// ID names the restore, its staging folder and its journal.
	ID       string    `json:"id"`
	Planned  time.Time `json:"planned"`
	Snapshot Report    `json:"snapshot"`
	// Modified is the modification time of the file that was verified.
	Modified time.Time `json:"modified"`

	Host    string   `json:"host"`
	Cluster string   `json:"cluster"`
	Members []Member `json:"members"`
	Token   string   `json:"token"`
	// RevisionBump is 0 where revisions stay as they are.
	RevisionBump uint64 `json:"revisionBump"`
	// ClusterID is the id of the etcd cluster that comes out, hexadecimal; Digest
	// that of the plan's [Agreement].
	ClusterID string `json:"clusterID"`
	Digest    string `json:"digest"`
	// Others are the hosts on which no etcd of another cluster may run, Fenced
	// those of which somebody said so. Foreign: the snapshot is of another cluster.
	Others  []Member `json:"others"`
	Fenced  []string `json:"fenced,omitempty"`
	Foreign bool     `json:"foreign,omitempty"`
	// Replaces are the ids of the clusters whose place the restored one takes, as
	// far as they are known here.
	Replaces []string `json:"replaces,omitempty"`
	// Undo: no snapshot is restored, the data in StagedDir, which an earlier
	// restore put aside, goes back to its place.
	Undo bool `json:"undo,omitempty"`
	// Trial is the etcd that boots a copy of the data first, empty for none.
	Trial string `json:"trial,omitempty"`
	// RepairSpace: the alarm NOSPACE comes with the snapshot and is dealt with.
	RepairSpace bool `json:"repairSpace,omitempty"`

	// DataDir is replaced by StagedDir and renamed to AsideDir, where it is
	// kept. HadData is false where there is none to keep.
	DataDir   string `json:"dataDir"`
	StagedDir string `json:"stagedDir"`
	AsideDir  string `json:"asideDir"`
	HadData   bool   `json:"hadData"`
	// LostFrom and LostTo are the revisions of the running etcd that the restore
	// takes away, 0 where it does not run.
	LostFrom int64 `json:"lostFrom,omitempty"`
	LostTo   int64 `json:"lostTo,omitempty"`

	TLS           TLS           `json:"tls"`
	Peer          TLS           `json:"peer"`
	Endpoint      string        `json:"endpoint"`
	Stop          []string      `json:"stop"`
	Restart       []string      `json:"restart"`
	HealthTimeout time.Duration `json:"healthTimeout"`

	// source is the snapshot, open since it was verified, in the process that
	// planned; open is how another one opens it again.
	source *opened
	open   OpenOptions

	// Steps say in words what happens, in order; Warnings what to know before.
	Steps    []Step   `json:"steps"`
	Warnings []string `json:"warnings"`
}

// ErrRestoreInterrupted is the error of what must wait until an interrupted
// restore is completed or undone.
var ErrRestoreInterrupted = errors.New("an earlier restore was interrupted")

// PlanRestore reads and checks everything that a restore depends on and returns
// what it will do; the caller closes it. It writes nothing.
func PlanRestore(ctx context.Context, opts RestoreOptions) (RestorePlan, error) {
	plan, err := planRestore(ctx, opts)
	if err != nil {
		return RestorePlan{}, errors.Join(fmt.Errorf("plan restore: %w", err), plan.Close())
	}
	return plan, nil
}

// Close closes the snapshot; a plan that is closed is still good.
func (p *RestorePlan) Close() error {
	if p.source == nil {
		return nil
	}
	source := p.source
	p.source = nil
	return source.Close()
}

func planRestore(ctx context.Context, opts RestoreOptions) (RestorePlan, error) {
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	if interrupted, err := RestoreInProgress(opts.Root); err != nil {
		return RestorePlan{}, err
	} else if interrupted {
		return RestorePlan{}, fmt.Errorf("%w: complete or undo it first (%q)", ErrRestoreInterrupted, journalPath(opts.Root))
	}
	plan, err := verifiedPlan(ctx, opts, now)
	if err != nil {
		return plan, err
	}
	if err := plan.agree(opts); err != nil {
		return plan, err
	}
	if err := errors.Join(plan.checkToken(opts), plan.checkCluster(opts), plan.checkVersion(ctx, opts), plan.checkEncryption(opts), plan.checkAlarms(opts), plan.chooseFolders(opts.Root)); err != nil {
		return plan, err
	}
	if err := errors.Join(plan.fence(ctx), plan.checkSpace()); err != nil {
		return plan, err
	}
	plan.Replaces = plan.replaces()
	plan.lookAtRunning(ctx)
	plan.warnOfSnapshot()
	plan.warnOfOrigin(opts.Surroundings)
	plan.Steps = plan.steps()
	return plan, nil
}

// PlanAgreement verifies the snapshot and works out what all hosts of the fleet
// have to share. It looks at no other host, and so can be made while the cluster
// still runs.
func PlanAgreement(ctx context.Context, opts RestoreOptions) (Agreement, error) {
	plan, err := verifiedPlan(ctx, opts, time.Now())
	if err == nil {
		err = plan.agree(opts)
	}
	if err == nil {
		err = errors.Join(plan.checkToken(opts), plan.checkCluster(opts), plan.checkVersion(ctx, opts))
	}
	if err := errors.Join(err, plan.Close()); err != nil {
		return Agreement{}, fmt.Errorf("plan restore: %w", err)
	}
	return plan.Agreement(), nil
}

// verifiedPlan begins a plan with the snapshot, which it reads in full.
func verifiedPlan(ctx context.Context, opts RestoreOptions, now time.Time) (RestorePlan, error) {
	snapshot, err := filepath.Abs(opts.Snapshot)
	if err != nil {
		return RestorePlan{}, err
	}
	before, err := os.Stat(snapshot)
	if err != nil {
		return RestorePlan{}, err
	}
	if !slices.ContainsFunc(opts.Members, func(m Member) bool { return m.Name == opts.Host }) {
		return RestorePlan{}, fmt.Errorf("host %q is no etcd member of its fleet: restore on one that has the role etcd", opts.Host)
	}
	open := opts.OpenOptions
	open.StoredHash = true
	source, report, err := openVerified(ctx, snapshot, VerifyOptions{OpenOptions: open, SkipHash: opts.SkipHash})
	if err != nil {
		return RestorePlan{}, fmt.Errorf("verify %q: %w", snapshot, err)
	}
	plan := RestorePlan{
		ID: freshID(), Planned: now.UTC().Truncate(time.Second), Snapshot: report, Modified: before.ModTime(),
		Host: opts.Host, Members: opts.Members, Others: opts.Others, Fenced: opts.Fenced,
		TLS: opts.TLS, Peer: opts.Peer, Endpoint: opts.Endpoint, Stop: opts.Stop, Restart: opts.Restart, HealthTimeout: opts.HealthTimeout,
		Warnings: []string{}, source: source, open: opts.OpenOptions,
	}
	if opts.Trial {
		plan.Trial = opts.EtcdBinary
	}
	if plan.Others == nil {
		plan.Others = opts.Members
	}
	if plan.HealthTimeout == 0 {
		plan.HealthTimeout = 3 * time.Minute
		if len(opts.Members) > 1 {
			plan.HealthTimeout = 30 * time.Minute
		}
	}
	return plan, nil
}

// freshID is 8 hexadecimal digits that no restore before had.
func freshID() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}

func memberNames(members []Member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Name
	}
	return names
}

// checkCluster refuses a snapshot of another cluster than this host's.
func (p *RestorePlan) checkCluster(opts RestoreOptions) error {
	whose := ""
	switch m := p.Snapshot.Manifest; {
	case opts.Cluster == "":
		return nil
	case m != nil && m.Cluster != opts.Cluster:
		whose = fmt.Sprintf("the snapshot is of cluster %q, this host belongs to %q", m.Cluster, opts.Cluster)
	case m == nil && !slices.ContainsFunc(p.Snapshot.Members, func(name string) bool { return slices.Contains(memberNames(p.Members), name) }):
		whose = fmt.Sprintf("the snapshot says nothing of its cluster, and of its members (%s) none is one of this fleet's (%s)",
			strings.Join(p.Snapshot.Members, ", "), strings.Join(memberNames(p.Members), ", "))
	default:
		return nil
	}
	if p.Foreign = opts.OtherCluster; p.Foreign {
		p.warn("%s", whose)
		return nil
	}
	return fmt.Errorf("%s: take one of this cluster, or say that you want the other one's: --other-cluster", whose)
}

// lookAtRunning notes what the etcd that runs now would lose.
func (p *RestorePlan) lookAtRunning(ctx context.Context) {
	status, err := askOnce(ctx, p.TLS, p.Endpoint)
	if err != nil {
		return // stopped or broken, which is why somebody restores
	}
	now := status.Header.GetRevision()
	if now <= p.Snapshot.Revision {
		p.warn("etcd runs on this host at revision %d, which is not beyond the snapshot's; its data stays in %s", now, p.AsideDir)
		return
	}
	p.LostFrom, p.LostTo = p.Snapshot.Revision+1, now
	p.warn("etcd runs on this host at revision %d; what was written since the snapshot (revision %d) is lost to the cluster and stays only in %s",
		now, p.Snapshot.Revision, p.AsideDir)
}

func (p *RestorePlan) warnOfSnapshot() {
	if !p.Snapshot.Trailer {
		p.warn("the snapshot has no SHA-256: whether every value in it is what etcd wrote is not known")
	}
	if p.RevisionBump == 0 {
		p.warn("revisions are not raised: clients that have seen later ones than the snapshot's keep stale objects until they are restarted")
	}
}

func (p *RestorePlan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}
