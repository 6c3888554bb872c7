package etcdops

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/version"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// DefaultRevisionBump is by how much a restore raises the revision: more than a
// cluster with 1,500 writes a second makes in a week, so that no client has
// seen a higher one.
const DefaultRevisionBump = 1_000_000_000

// RestoreOptions says what to restore on this host.
type RestoreOptions struct {
	Root layout.Root
	// Snapshot is the file to restore. SkipHash accepts one without a trailer.
	Snapshot string
	SkipHash bool
	// Cluster is the fleet's name of the cluster; a snapshot whose manifest
	// names another one is refused unless OtherCluster.
	Cluster      string
	OtherCluster bool
	// Host is the name of this host's member; Members are all of them.
	Host    string
	Members []Member
	// Token names the new cluster. Empty makes a fresh one, which is refused
	// where there are several members, since all must use the same.
	Token string
	// KeepRevision leaves revisions as they were in the snapshot: watches and
	// caches of clients that have seen later ones then break. By default the
	// revision is raised by DefaultRevisionBump and all before it compacted.
	KeepRevision bool
	// TLS and Endpoint (a client URL) reach this host's member.
	TLS      TLS
	Endpoint string
	// EtcdBinary, if set, is asked for its version.
	EtcdBinary string
	// EncryptionKeys are fingerprints of this host's encryption-at-rest keys, as
	// SaveOptions.EncryptionKey has them.
	EncryptionKeys []string
	// RetiredKeys are those of keys that were dropped and lie in RetiredFile.
	RetiredKeys []string
	RetiredFile string
	// Surroundings are this host's of today.
	Surroundings Surroundings
	// Stop are components stopped before etcd is, in this order: those that
	// write to etcd. They are started again after it.
	Stop []string
	// Restart are components restarted at the end, in this order, because they
	// watch and would wait for revisions that never come.
	Restart []string
	// HealthTimeout is how long etcd may take to prove itself; 3 minutes by
	// default, 15 where other members have to be restored as well.
	HealthTimeout time.Duration
	// Now is the clock's time by default.
	Now time.Time
	OpenOptions
}

// RestorePlan is what a restore will do; it was made from a snapshot that
// passed every check. It is plain data, and holds no secret.
type RestorePlan struct {
	// ID names the restore, its staging folder and its journal.
	ID       string    `json:"id"`
	Planned  time.Time `json:"planned"`
	Snapshot Report    `json:"snapshot"`
	SkipHash bool      `json:"skipHash,omitempty"`
	// Modified is the modification time of the file that was verified.
	Modified time.Time `json:"modified"`

	Host    string   `json:"host"`
	Members []Member `json:"members"`
	Token   string   `json:"token"`
	// RevisionBump is 0 where revisions stay as they are.
	RevisionBump uint64 `json:"revisionBump"`

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
	Endpoint      string        `json:"endpoint"`
	Stop          []string      `json:"stop"`
	Restart       []string      `json:"restart"`
	HealthTimeout time.Duration `json:"healthTimeout"`

	// open is how the snapshot is opened once more, in the process that planned.
	open OpenOptions

	// Steps say in words what happens, in order; Warnings what to know before.
	Steps    []Step   `json:"steps"`
	Warnings []string `json:"warnings"`
}

// ErrRestoreInterrupted is the error of what must wait until an interrupted
// restore is completed or undone.
var ErrRestoreInterrupted = errors.New("an earlier restore was interrupted")

// PlanRestore reads and checks everything that a restore depends on and returns
// what it will do. It writes nothing.
func PlanRestore(ctx context.Context, opts RestoreOptions) (RestorePlan, error) {
	plan, err := planRestore(ctx, opts)
	if err != nil {
		return RestorePlan{}, fmt.Errorf("plan restore: %w", err)
	}
	return plan, nil
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
	snapshot, err := filepath.Abs(opts.Snapshot)
	if err != nil {
		return RestorePlan{}, err
	}
	before, err := os.Stat(snapshot)
	if err != nil {
		return RestorePlan{}, err
	}
	report, err := Verify(ctx, snapshot, VerifyOptions{OpenOptions: opts.OpenOptions, SkipHash: opts.SkipHash})
	if err != nil {
		return RestorePlan{}, err
	}
	id := freshID()
	plan := RestorePlan{
		ID: id, Planned: now.UTC().Truncate(time.Second), Snapshot: report, SkipHash: opts.SkipHash, Modified: before.ModTime(),
		Host: opts.Host, Members: opts.Members, Token: opts.Token,
		TLS: opts.TLS, Endpoint: opts.Endpoint, Stop: opts.Stop, Restart: opts.Restart, HealthTimeout: opts.HealthTimeout,
		Warnings: []string{}, open: opts.OpenOptions,
	}
	if !opts.KeepRevision {
		plan.RevisionBump = DefaultRevisionBump
	}
	if plan.HealthTimeout == 0 {
		plan.HealthTimeout = 3 * time.Minute
		if len(opts.Members) > 1 {
			plan.HealthTimeout = 15 * time.Minute
		}
	}
	if err := errors.Join(plan.checkMembers(opts), plan.checkToken(opts), plan.checkCluster(opts), plan.checkVersion(ctx, opts), plan.chooseFolders(opts.Root)); err != nil {
		return RestorePlan{}, err
	}
	if err := errors.Join(plan.checkOthersStopped(ctx), plan.checkSpace()); err != nil {
		return RestorePlan{}, err
	}
	plan.lookAtRunning(ctx)
	plan.warnOfSnapshot()
	plan.warnOfOrigin(opts.Surroundings)
	plan.warnOfEncryption(opts)
	plan.Steps = plan.steps()
	return plan, nil
}

// freshID is 8 hexadecimal digits that no restore before had.
func freshID() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}

func (p *RestorePlan) checkMembers(opts RestoreOptions) error {
	if !slices.ContainsFunc(opts.Members, func(m Member) bool { return m.Name == opts.Host }) {
		return fmt.Errorf("host %q is no etcd member of its fleet: restore on one that has the role etcd", opts.Host)
	}
	if len(opts.Members) == 1 {
		if p.Token == "" {
			p.Token = "restored-" + p.ID
		}
		return nil
	}
	if p.Token == "" {
		return fmt.Errorf("the cluster has %d members (%s): run the restore on each of them, with the same snapshot and the same new token, for example restored-%s",
			len(opts.Members), strings.Join(memberNames(opts.Members), ", "), p.ID)
	}
	p.Warnings = append(p.Warnings, fmt.Sprintf("the cluster has %d members: run this with the same snapshot and token %s on each of %s; etcd is healthy only when most of them are done",
		len(opts.Members), p.Token, strings.Join(memberNames(opts.Members), ", ")))
	return nil
}

// checkToken refuses a token that was used before: the ids of members are made
// of it, so a peer that still runs with old data could rejoin.
func (p *RestorePlan) checkToken(opts RestoreOptions) error {
	if opts.Token == "" {
		return nil // made afresh, or refused already
	}
	used := map[string]string{opts.Cluster: "the cluster was first made with it"}
	data := opts.Root.EtcdData()
	old, err := filepath.Glob(data + ".before-restore-*")
	if err != nil {
		return err
	}
	for _, dir := range append(old, data) {
		m, err := readMark(dir)
		if err != nil {
			return err
		}
		used[m.Token] = fmt.Sprintf("an earlier restore made %q with it", dir)
	}
	if why, ok := used[opts.Token]; ok {
		return fmt.Errorf("token %q is not new (%s): choose one that was never used, for example restored-%s", opts.Token, why, p.ID)
	}
	return nil
}

func memberNames(members []Member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Name
	}
	return names
}

func (p *RestorePlan) checkCluster(opts RestoreOptions) error {
	m := p.Snapshot.Manifest
	if m == nil || m.Cluster == opts.Cluster || opts.Cluster == "" {
		return nil
	}
	if opts.OtherCluster {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the snapshot is of cluster %q, this host belongs to %q", m.Cluster, opts.Cluster))
		return nil
	}
	return fmt.Errorf("the snapshot is of cluster %q, this host belongs to %q: take one of this cluster, or say that you want the other one's", m.Cluster, opts.Cluster)
}

// checkVersion refuses data that is newer than the etcd that would open it.
func (p *RestorePlan) checkVersion(ctx context.Context, opts RestoreOptions) error {
	if err := versionFits(p.Snapshot.StorageVersion, version.Version, "this nodeagent restores"); err != nil {
		return err
	}
	if opts.EtcdBinary == "" {
		return nil
	}
	installed, err := binaryVersion(ctx, opts.EtcdBinary)
	if err != nil {
		return err
	}
	return versionFits(p.Snapshot.StorageVersion, installed, fmt.Sprintf("%q reads", opts.EtcdBinary))
}

func versionFits(storage, reader, what string) error {
	if storage == "" {
		return nil
	}
	data, err := semver.NewVersion(storage)
	if err != nil {
		return fmt.Errorf("read storage version %q of the snapshot: %w", storage, err)
	}
	limit, err := semver.NewVersion(reader)
	if err != nil {
		return fmt.Errorf("read etcd version %q: %w", reader, err)
	}
	if data.Major > limit.Major || data.Major == limit.Major && data.Minor > limit.Minor {
		return fmt.Errorf("the snapshot has the data format of etcd %d.%d, %s up to %d.%d: install a newer one first", data.Major, data.Minor, what, limit.Major, limit.Minor)
	}
	return nil
}

var etcdVersionLine = regexp.MustCompile(`(?m)^etcd Version: (\S+)`)

func binaryVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %q for its version: %w", binary, err)
	}
	found := etcdVersionLine.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("ask %q for its version: it answered %.100q", binary, out)
	}
	return string(found[1]), nil
}

// chooseFolders decides where the new and the old data lie.
func (p *RestorePlan) chooseFolders(root layout.Root) error {
	p.DataDir = root.EtcdData()
	p.StagedDir = p.DataDir + ".restore-" + p.ID
	p.AsideDir = p.DataDir + ".before-restore-" + p.Planned.Format(timeInName)
	for i := 2; exists(p.AsideDir); i++ {
		p.AsideDir = fmt.Sprintf("%s.before-restore-%s-%d", p.DataDir, p.Planned.Format(timeInName), i)
	}
	var err error
	if p.HadData, err = hasData(p.DataDir); err != nil {
		return err
	}
	return exchangeable(p.DataDir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// exchangeable refuses a data folder that cannot be renamed.
func exchangeable(dir string) error {
	var self, parent unix.Stat_t
	err := unix.Lstat(dir, &self)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", dir, err)
	}
	if self.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%q is no folder: a restore exchanges it by renaming, so let it be a plain folder", dir)
	}
	if err := unix.Stat(filepath.Dir(dir), &parent); err != nil {
		return fmt.Errorf("look at %q: %w", filepath.Dir(dir), err)
	}
	if self.Dev != parent.Dev {
		return fmt.Errorf("%q is a mount point and cannot be exchanged by renaming: mount its disk at %q instead", dir, filepath.Dir(dir))
	}
	return nil
}

// checkOthersStopped makes sure that no other member answers: one that keeps
// its old data while this host gets new data makes two clusters.
func (p *RestorePlan) checkOthersStopped(ctx context.Context) error {
	var alive []error
	for _, m := range p.Members {
		if m.Name == p.Host {
			continue
		}
		if _, err := askOnce(ctx, p.TLS, m.ClientURL); err == nil {
			alive = append(alive, fmt.Errorf("etcd of %s still answers on %s: stop etcd on every member before restoring any of them", m.Name, m.ClientURL))
		}
	}
	return errors.Join(alive...)
}

// stageOverhead is what staged data takes beyond the database: two write-ahead
// log files, which etcd allocates in full (64 MB each), and room for a database
// that grows while it is opened.
const stageOverhead = 192 << 20

func (p *RestorePlan) checkSpace() error {
	dir := filepath.Dir(p.DataDir)
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	if need := p.Snapshot.Size + stageOverhead; free < need {
		return fmt.Errorf("%q has %s free, the restore needs %s beside the old data, which is kept: free some space, for example old %s folders",
			dir, bytesText(free), bytesText(need), filepath.Base(p.DataDir)+".before-restore-*")
	}
	return nil
}

// lookAtRunning notes what the etcd that runs now would lose.
func (p *RestorePlan) lookAtRunning(ctx context.Context) {
	status, err := askOnce(ctx, p.TLS, p.Endpoint)
	if err != nil {
		return // stopped or broken, which is why somebody restores
	}
	if now := status.Header.GetRevision(); now > p.Snapshot.Revision {
		p.LostFrom, p.LostTo = p.Snapshot.Revision+1, now
	}
	p.Warnings = append(p.Warnings, fmt.Sprintf("etcd runs on this host at revision %d; what was written since the snapshot (revision %d) is lost to the cluster and stays only in %s",
		status.Header.GetRevision(), p.Snapshot.Revision, p.AsideDir))
}

// warnOfEncryption tells when the restored Secrets could not be read: the key is
// not in the snapshot.
func (p *RestorePlan) warnOfEncryption(opts RestoreOptions) {
	own := opts.EncryptionKeys
	if !p.Snapshot.Encrypted {
		return
	}
	var key string
	if m := p.Snapshot.Manifest; m != nil {
		key = m.EncryptionKey
	}
	const remedy = "put the folder pki/keys/encryption of the host that wrote them back from a backup, or they stay unreadable"
	switch {
	case len(own) == 0:
		p.Warnings = append(p.Warnings, "Secrets in the snapshot are encrypted, and this host has no key: "+remedy)
	case key == "":
		p.Warnings = append(p.Warnings, fmt.Sprintf("Secrets in the snapshot are encrypted with a key that it does not name: if that is not this host's %s, %s", own[0], remedy))
	case !slices.Contains(own, key) && slices.Contains(opts.RetiredKeys, key):
		p.Warnings = append(p.Warnings, fmt.Sprintf("Secrets in the snapshot are encrypted with the key %s, which was dropped since: put it from %s into the EncryptionConfiguration as the last key, or they stay unreadable", key, opts.RetiredFile))
	case !slices.Contains(own, key):
		p.Warnings = append(p.Warnings, fmt.Sprintf("Secrets in the snapshot are encrypted with the key %s, this host has %s: %s", key, strings.Join(own, ", "), remedy))
	}
}

func (p *RestorePlan) warnOfSnapshot() {
	if !p.Snapshot.Trailer {
		p.Warnings = append(p.Warnings, "the snapshot has no SHA-256: whether every value in it is what etcd wrote is not known")
	}
	if p.RevisionBump == 0 {
		p.Warnings = append(p.Warnings, "revisions are not raised: clients that have seen later ones than the snapshot's keep stale objects until they are restarted")
	}
	if len(p.Snapshot.Alarms) > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the snapshot carries the alarm %s: the restored etcd may be read-only until it is compacted, defragmented and disarmed",
			strings.Join(p.Snapshot.Alarms, ", ")))
	}
}
