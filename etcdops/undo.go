package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Kept is data that was live once and was put aside.
type Kept struct {
	Path string `json:"path"`
	// Aside is when that was, Why what was done: restore, undo or rejoin.
	Aside time.Time `json:"aside"`
	Why   string    `json:"why"`
	// Cluster is the id of its cluster, hexadecimal, empty where it holds no data.
	Cluster string `json:"cluster,omitempty"`
}

// Why data was put aside, as it stands in the name of its folder.
const (
	keptByRestore = "restore"
	keptByUndo    = "undo"
	keptByRejoin  = "rejoin"
)

var keptName = regexp.MustCompile(`\.before-(restore|undo|rejoin)-(\d{8}T\d{6}Z)(-\d+)?$`)

// KeptData lists the data that was put aside on this host, the newest first.
func KeptData(root layout.Root) ([]Kept, error) {
	paths, err := filepath.Glob(root.EtcdData() + ".before-*")
	if err != nil {
		return nil, err
	}
	var kept []Kept
	for _, path := range paths {
		parts := keptName.FindStringSubmatch(path)
		if parts == nil {
			continue
		}
		at, err := time.Parse(timeInName, parts[2])
		if err != nil {
			continue // somebody's own name
		}
		k := Kept{Path: path, Aside: at, Why: parts[1]}
		if k.Cluster, _, err = dataCluster(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("look at kept data: %w", err)
		}
		kept = append(kept, k)
	}
	slices.SortFunc(kept, func(a, b Kept) int {
		if c := b.Aside.Compare(a.Aside); c != 0 {
			return c
		}
		return strings.Compare(b.Path, a.Path)
	})
	return kept, nil
}

// UndoOptions says which data comes back.
type UndoOptions struct {
	Root layout.Root
	// Data is the folder that was put aside; the newest one by default.
	Data string
	// Host, Cluster, Others, Fenced, TLS, Peer, Endpoint, Stop, Restart and
	// HealthTimeout are as in RestoreOptions; Members are those of the fleet.
	Host, Cluster string
	Members       []Member
	Fenced        []string
	TLS, Peer     TLS
	Endpoint      string
	Stop, Restart []string
	HealthTimeout time.Duration
	Now           time.Time
}

// PlanUndo reads and checks everything that bringing the old data back depends on
// and returns what it will do, for [Restore]. It writes nothing.
func PlanUndo(ctx context.Context, opts UndoOptions) (RestorePlan, error) {
	plan, err := planUndo(ctx, opts)
	if err != nil {
		return RestorePlan{}, fmt.Errorf("plan undo: %w", err)
	}
	return plan, nil
}

func planUndo(ctx context.Context, opts UndoOptions) (RestorePlan, error) {
	if interrupted, err := RestoreInProgress(opts.Root); err != nil {
		return RestorePlan{}, err
	} else if interrupted {
		return RestorePlan{}, fmt.Errorf("%w: complete or undo it first (%q)", ErrRestoreInterrupted, journalPath(opts.Root))
	}
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	from, err := opts.folder()
	if err != nil {
		return RestorePlan{}, err
	}
	p := RestorePlan{
		Undo: true, ID: freshID(), Planned: opts.Now.UTC().Truncate(time.Second), Host: opts.Host, Cluster: opts.Cluster,
		Members: opts.Members, Others: opts.Members, Fenced: opts.Fenced, TLS: opts.TLS, Peer: opts.Peer, Endpoint: opts.Endpoint,
		Stop: opts.Stop, Restart: opts.Restart, HealthTimeout: opts.HealthTimeout, Warnings: []string{},
	}
	if p.HealthTimeout == 0 {
		p.HealthTimeout = 3 * time.Minute
		if len(opts.Members) > 1 {
			p.HealthTimeout = 30 * time.Minute
		}
	}
	if p.ClusterID, _, err = dataCluster(from); err != nil {
		return RestorePlan{}, fmt.Errorf("%q cannot come back: %w", from, err)
	}
	if err := p.chooseFolders(opts.Root); err != nil {
		return RestorePlan{}, err
	}
	p.StagedDir = from
	if err := errors.Join(p.checkKept(ctx), p.fence(ctx)); err != nil {
		return RestorePlan{}, err
	}
	p.Replaces = p.replaces()
	p.lookAtRunning(ctx)
	p.warn("revisions go back to those of before: what has seen later ones is restarted on this host (%s), and has to be on others", strings.Join(append(reversed(p.Stop), p.Restart...), ", "))
	p.Steps = p.steps()
	return p, nil
}

// folder is the one that comes back.
func (o UndoOptions) folder() (string, error) {
	if o.Data != "" {
		path, err := filepath.Abs(o.Data)
		if err != nil {
			return "", err
		}
		if filepath.Dir(path) != etcdDir(o.Root) || path == o.Root.EtcdData() {
			return "", fmt.Errorf("%q does not lie beside %q: what comes back is exchanged with it by one rename, so move it there first", path, o.Root.EtcdData())
		}
		return path, nil
	}
	kept, err := KeptData(o.Root)
	if err != nil {
		return "", err
	}
	kept = slices.DeleteFunc(kept, func(k Kept) bool { return k.Cluster == "" })
	if len(kept) == 0 {
		return "", fmt.Errorf("no data was put aside in %q: there is nothing to go back to", etcdDir(o.Root))
	}
	return kept[0].Path, nil
}

// checkKept reads the database of the data that is to come back in full, and
// notes what is in it.
func (p *RestorePlan) checkKept(ctx context.Context) error {
	path := filepath.Join(p.StagedDir, "member", "snap", "db")
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	busy, err := held(path)
	if err != nil {
		return err
	}
	if busy {
		return fmt.Errorf("a process has %q open: an etcd runs on data that was put aside; stop it", path)
	}
	contents, err := inspect(ctx, path, info.Size(), nil)
	if err != nil {
		return fmt.Errorf("%q cannot come back: %w", p.StagedDir, err)
	}
	p.Snapshot = Report{Path: path, Size: info.Size(), Contents: contents}
	return nil
}
