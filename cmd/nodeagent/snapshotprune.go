package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

func newSnapshotPrune(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete the snapshots that no rule of the spec keeps",
		Long: `prune deletes the snapshots that no rule of the spec's [snapshots] keeps, in the folder
on the host and at the further places, and says why each stays or goes; 'nodeagent run'
does the same after each snapshot that it takes. With --dry-run nothing is deleted.

The newest good snapshot always stays, and so do files that nodeagent did not write,
snapshots that are dated in the future, and the newest one of an etcd cluster that
another has replaced. In the folder on the host, one that a further place wants and does
not have yet stays for up to a week. At a further place, a host's prune deletes that
host's snapshots and no others.`,
		Example: `  nodeagent snapshot prune --dry-run
  nodeagent snapshot prune --from offsite
  nodeagent snapshot prune --from /mnt/backup -o json`,
		Args: noArgs,
	}
	from := cmd.Flags().String("from", "", "a `place` of the spec, or a folder (default: every place)")
	dry := cmd.Flags().Bool("dry-run", false, "only say what would be deleted")
	must(cmd.RegisterFlagCompletionFunc("from", o.completePlace))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		spec, err := o.spec()
		if err != nil {
			return err
		}
		copies, done := agent.OpenCopies("", spec, logger(o.stderr))
		defer done()
		var all []pruned
		var failed []error
		for _, name := range placesToPrune(copies, *from) {
			p, err := o.pruneAt(cmd.Context(), copies, spec, name, *dry)
			if err != nil {
				p.Error = err.Error()
				failed = append(failed, fmt.Errorf("%s: %w", name, err))
			}
			all = append(all, p)
		}
		return errors.Join(o.printPruned(all), errors.Join(failed...))
	}
	return cmd
}

func placesToPrune(copies *agent.Copies, from string) []string {
	if from != "" {
		return []string{from}
	}
	return append([]string{hosts.LocalCopy}, copies.Names()...)
}

// pruned is what a prune did at a place, or would do. After an error it is what
// was done before that.
type pruned struct {
	Place  string `json:"place"`
	Where  string `json:"where"`
	DryRun bool   `json:"dryRun"`
	// Kept is not told of a further place that was pruned.
	Kept []etcdops.Decision `json:"kept"`
	// Deleted are those that are gone; with DryRun those that would be.
	Deleted []etcdops.Decision `json:"deleted"`
	Locked  []store.Lock       `json:"locked,omitempty"`
	Error   string             `json:"error,omitempty"`
}

func (o *options) pruneAt(ctx context.Context, copies *agent.Copies, spec *hosts.Spec, place string, dry bool) (p pruned, err error) {
	p = pruned{Place: place, Where: copies.Where(place), DryRun: dry}
	now := time.Now()
	switch {
	case o.isFolder(place) && dry:
		p.Where = place
		var entries []etcdops.Entry
		entries, err = etcdops.List(place)
		p.Kept, p.Deleted = etcdops.Retain(entries, spec.Snapshots.Keep, now)
	case o.isFolder(place):
		p.Where = place
		p.Kept, p.Deleted, err = etcdops.Prune(ctx, place, spec.Snapshots.Keep, now)
	case place == hosts.LocalCopy && dry:
		p.Kept, p.Deleted, err = copies.PlanLocal(now)
	case place == hosts.LocalCopy:
		p.Kept, p.Deleted, err = copies.PruneLocal(ctx, now)
	case dry:
		p.Kept, p.Deleted, err = copies.PlanPrune(ctx, place, now)
	default:
		if p.Kept, _, err = copies.PlanPrune(ctx, place, now); err == nil {
			p, err = pruneCopy(ctx, copies, p)
		}
	}
	p.Kept, p.Deleted = nonNil(p.Kept), nonNil(p.Deleted)
	return p, err
}

func pruneCopy(ctx context.Context, copies *agent.Copies, p pruned) (pruned, error) {
	results, err := copies.Copy(ctx, agent.CopyOptions{Only: []string{p.Place}, BringNone: true})
	for _, r := range results {
		p.Deleted, p.Locked = r.Deleted, r.Locked
	}
	return p, err
}

func (o *options) printPruned(all []pruned) error {
	if o.json() {
		return printJSON(o, map[string]any{"places": all})
	}
	out := newScreen(o.stdout)
	var rows [][]string
	for _, p := range all {
		if len(p.Kept)+len(p.Deleted) == 0 && p.Error == "" {
			fmt.Fprintf(o.stdout, "No snapshots in %s.\n", p.Where)
		}
		rows = append(rows, p.rows()...)
	}
	if out.table && len(rows) > 0 {
		rows = append([][]string{{"PLACE", "SNAPSHOT", "TAKEN", "SIZE", "", "BECAUSE"}}, rows...)
	}
	return out.rows(rows)
}

func (p pruned) rows() (rows [][]string) {
	gone := "deleted"
	if p.DryRun {
		gone = "would go"
	}
	row := func(d etcdops.Decision, what string) {
		rows = append(rows, []string{
			p.Place, path.Base(d.Entry.Path), d.Entry.Taken.UTC().Format(time.RFC3339), bytes(d.Entry.Size), what, d.Reason,
		})
	}
	for _, d := range p.Kept {
		row(d, "stays")
	}
	for _, d := range p.Deleted {
		row(d, gone)
	}
	for _, l := range p.Locked {
		rows = append(rows, []string{p.Place, l.Name, "", "", "stays", "no rule keeps it, and object lock does" + until(l.Until)})
	}
	return rows
}
