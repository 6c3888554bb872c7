package agent

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// DrillChoices are what a person decides about a drill.
type DrillChoices struct {
	// Snapshot is a file or PLACE:NAME; empty is the newest good one.
	Snapshot string
	etcdops.VerifyOptions
	// Reserve is how many percent of the scratch folder's file system stay free; 0 is
	// the default.
	Reserve int
	// Low gives the drill what CPU and disk nobody else wants.
	Low bool
	// Step is told of each step as it begins.
	Step func(step string)
}

// DrillSnapshot restores a snapshot where it disturbs nobody, to know that it
// restores, and records what it found. One at a time runs on a host; the others
// are refused with [etcdops.ErrBusy].
func (h *Host) DrillSnapshot(ctx context.Context, choices DrillChoices) (etcdops.DrillReport, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) {
		return etcdops.DrillReport{}, errNoEtcd(spec)
	}
	opts, err := h.drillOptions(ctx, choices)
	if err != nil {
		return etcdops.DrillReport{}, err
	}
	begun := false
	opts.Begun = func(r etcdops.DrillReport) error {
		begun = true
		r.Error = "it was ended from outside before it was done"
		return etcdops.RecordDrill(h.root, r)
	}
	report, err := etcdops.Drill(ctx, opts)
	report.WorstRPOSeconds = worstGap(spec, report.Began).Seconds()
	if begun {
		err = errors.Join(err, etcdops.RecordDrill(h.root, report))
	}
	return report, err
}

func (h *Host) drillOptions(ctx context.Context, choices DrillChoices) (etcdops.DrillOptions, error) {
	spec := h.Spec()
	opts := etcdops.DrillOptions{
		Snapshot: choices.Snapshot, VerifyOptions: choices.VerifyOptions,
		Program: filepath.Join(spec.Kubernetes.Binaries, layout.Etcd),
		Live:    []string{h.root.EtcdData(), spec.Snapshots.Destination},
		Low:     choices.Low, Reserve: choices.Reserve, Step: choices.Step,
	}
	opts.OpenOptions = h.opening(opts.OpenOptions)
	if opts.Snapshot == "" {
		newest, err := h.newestToDrill(ctx)
		if err != nil {
			return opts, err
		}
		opts.Snapshot = newest
	}
	ref := opts.Snapshot
	if !isRef(ref) { // the record is read elsewhere
		var err error
		if opts.Snapshot, err = filepath.Abs(ref); err != nil {
			return opts, err
		}
	} else {
		opts.Fetch = func(ctx context.Context) (string, func() error, error) {
			return h.FetchSnapshot(ctx, ref, choices.Progress)
		}
	}
	atRest, err := pki.OpenAtRest(h.root)
	if err != nil {
		// What is encrypted is counted then, and the rest is looked into.
		h.log.Warn("encrypted objects are not looked into", "because", err)
	}
	opts.OpenValue = func(_ string, value []byte) ([]byte, bool) { return atRest.Open(value) }
	return opts, nil
}

// worstGap is the longest time between two moments of the host's schedule, zero
// without one.
func worstGap(spec *hosts.Spec, now time.Time) time.Duration {
	schedule, err := calendar.Parse(spec.Snapshots.Schedule)
	if err != nil {
		return 0
	}
	_, longest := schedule.Gaps(now)
	return longest + spec.Snapshots.Spread
}
