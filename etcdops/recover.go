package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// RecoverOptions says how a cluster that has lost its quorum for good goes on
// with this host's member alone.
type RecoverOptions struct {
	// RestoreOptions are those of a restore on this host; Members, Snapshot and
	// Token are chosen by the recovery. Others are all etcd hosts of the fleet.
	RestoreOptions
	// Save says how a snapshot is taken of the member while it runs; its Dir is
	// where one is put in any case.
	Save SaveOptions
	// Program is etcd's: it reads the data where the member does not run.
	Program string
}

// RecoverSource is where a recovery has the data from.
type RecoverSource string

const (
	// RecoverLive: the member runs, and has applied all that it knows to be agreed.
	RecoverLive RecoverSource = "live"
	// RecoverFolder: it does not run; a copy of its folder is opened.
	RecoverFolder RecoverSource = "folder"
)

// RecoverLook is what was seen before a recovery.
type RecoverLook struct {
	View   View          `json:"view"`
	Others []Other       `json:"others"`
	Source RecoverSource `json:"source"`
	// Cluster is the id of the own data's cluster.
	Cluster string `json:"cluster"`
}

// ErrNotRecovered is the error of a recovery that is refused.
var ErrNotRecovered = errors.New("the cluster is not recovered")

// LookRecover looks whether a recovery is due, and refuses where it is not. It
// changes nothing.
func LookRecover(ctx context.Context, opts RecoverOptions) (RecoverLook, error) {
	if interrupted, err := RestoreInProgress(opts.Root); err != nil || interrupted {
		return RecoverLook{}, errors.Join(err, ErrRestoreInterrupted)
	}
	look := RecoverLook{Source: RecoverFolder}
	var err error
	if look.Cluster, _, err = dataCluster(opts.Root.EtcdData()); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: this host has no data of etcd: recover on one that has, or restore a snapshot (`nodeagent snapshot restore`)", ErrNotRecovered)
		}
		return look, err
	}
	look.View = Look(ctx, opts.Save.Site, false)
	others := slices.DeleteFunc(slices.Clone(opts.Others), func(m Member) bool { return m.Name == opts.Host })
	look.Others = lookAtOthers(ctx, opts.TLS, opts.Peer, others, "")
	self, _ := look.View.member(opts.Host)
	if self.Answers {
		look.Source = RecoverLive
	}
	return look, decideRecover(look, opts.Host, opts.Fenced)
}

// decideRecover refuses where there is a quorum, where another member still runs,
// which knows more or could come back into a quorum, and where nobody has said of
// those who say nothing that they are off. It is pure.
func decideRecover(look RecoverLook, host string, fenced []string) error {
	if look.View.Quorum {
		return fmt.Errorf("%w: it has its quorum (%d of %d members serve): a member that is lost is replaced with `nodeagent etcd replace HOST`", ErrNotRecovered, look.View.Serving, look.View.Voters)
	}
	self, _ := look.View.member(host)
	for _, m := range look.View.Members {
		if m.Name != host && m.Answers && m.OtherCluster == "" && m.RaftApplied > self.RaftApplied {
			return fmt.Errorf("%w: %s answers as well and has applied more (entry %d, this host %d): recover there, not here", ErrNotRecovered, m.Name, m.RaftApplied, self.RaftApplied)
		}
	}
	if err := judgeFence(look.Others, fenced); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecovered, err)
	}
	return nil
}

// TakeForRecovery saves what this host has as a snapshot, and returns its path.
// The data is not touched.
func TakeForRecovery(ctx context.Context, look RecoverLook, opts RecoverOptions, told Told) (string, error) {
	if look.Source == RecoverLive {
		told.say("save", "saving what this host's member has")
		m, err := Save(ctx, opts.Save)
		if err != nil {
			return "", err
		}
		return m.Path(opts.Save.Dir), nil
	}
	told.say("save", "etcd does not run here: opening a copy of its data, its log included")
	return saveFolder(ctx, opts)
}

// saveFolder boots a copy of the data folder alone, which brings what was only in
// its log into the database, and saves that.
func saveFolder(ctx context.Context, opts RecoverOptions) (_ string, err error) {
	data := opts.Root.EtcdData()
	busy, err := held(filepath.Join(data, "member", "snap", "db"))
	if err != nil {
		return "", err
	}
	if busy {
		return "", fmt.Errorf("etcd has %q open and does not answer: stop it (systemctl stop nodeagent-etcd), then try again", data)
	}
	temp, err := os.MkdirTemp(etcdDir(opts.Root), atomicfile.TempPrefix+"recover-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	database, err := os.Stat(filepath.Join(data, "member", "snap", "db"))
	if err != nil {
		return "", err
	}
	if err := roomFor(etcdDir(opts.Root), 2*database.Size()+stageOverhead); err != nil {
		return "", err
	}
	copied := filepath.Join(temp, "data")
	if err := os.CopyFS(copied, os.DirFS(data)); err != nil {
		return "", fmt.Errorf("copy %q: %w", data, err)
	}
	throwaway, err := StartThrowaway(ctx, ThrowawayOptions{Program: opts.Program, Dir: filepath.Join(temp, "etcd"), Data: copied, Name: opts.Host, Alone: true})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, throwaway.Stop()) }()
	return throwaway.save(ctx, opts.Save.Dir, fmt.Sprintf("%s-%s-%s%s", opts.Cluster, opts.Host, time.Now().UTC().Format(timeInName), snapshotSuffix))
}

// save writes what the throwaway has into a plain snapshot without a manifest.
func (t *Throwaway) save(ctx context.Context, dir, name string) (_ string, err error) {
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	stream, err := t.client.SnapshotWithVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("save from the copy: %w", err)
	}
	defer func() { err = errors.Join(err, stream.Snapshot.Close()) }()
	path := filepath.Join(dir, name)
	f, err := os.CreateTemp(dir, atomicfile.TempPrefix)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(f.Name()))) }()
	_, err = f.ReadFrom(stream.Snapshot)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return "", fmt.Errorf("save from the copy: %w", err)
	}
	if err := rename(f.Name(), path); err != nil {
		return "", err
	}
	return path, nil
}

// PlanRecover plans the restore of what was taken as a cluster of this host
// alone, for [Restore]. It writes nothing.
func PlanRecover(ctx context.Context, snapshot string, opts RecoverOptions) (RestorePlan, error) {
	restore := opts.RestoreOptions
	restore.Snapshot, restore.Token, restore.Agreed, restore.Attempt = snapshot, "", nil, 0
	restore.Members = slices.DeleteFunc(slices.Clone(opts.Others), func(m Member) bool { return m.Name != opts.Host })
	// What is restored is this host's own: Secrets in it are as readable as before.
	restore.UnreadableSecrets = true
	plan, err := PlanRestore(ctx, restore)
	if err != nil {
		return plan, err
	}
	for _, m := range opts.Others {
		if m.Name != opts.Host {
			plan.warn("%s is no member any more: `nodeagent etcd rejoin` there puts its old data aside and joins it again", m.Name)
		}
	}
	return plan, nil
}
