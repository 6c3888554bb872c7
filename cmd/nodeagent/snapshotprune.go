package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

func newSnapshotPrune(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete the snapshots that no rule of the spec keeps",
		Long: `prune deletes the snapshots of a folder that no rule of the spec's [snapshots] keeps,
and says why each stays or goes; 'nodeagent run' does the same after each snapshot that
it takes. With --dry-run nothing is deleted.

The newest good snapshot always stays, and so do files that nodeagent did not write,
snapshots that are dated in the future, and the newest one of an etcd cluster that
another has replaced.`,
		Example: `  nodeagent snapshot prune --dry-run
  nodeagent snapshot prune --from /mnt/backup -o json`,
		Args: noArgs,
	}
	from := cmd.Flags().String("from", "", "the `folder` to prune (default: snapshots.destination of the spec)")
	dry := cmd.Flags().Bool("dry-run", false, "only say what would be deleted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		spec, err := o.spec()
		if err != nil {
			return err
		}
		dir := *from
		if dir == "" {
			dir = spec.Snapshots.Destination
		}
		p, err := prune(cmd.Context(), dir, spec.Snapshots.Keep, *dry)
		return errors.Join(o.printPruned(p), err)
	}
	return cmd
}

// pruned is what a prune did, or would do. After an error it is what was done
// before that.
type pruned struct {
	Folder string             `json:"folder"`
	DryRun bool               `json:"dryRun"`
	Kept   []etcdops.Decision `json:"kept"`
	// Deleted are those that are gone; with DryRun those that would be.
	Deleted []etcdops.Decision `json:"deleted"`
}

func prune(ctx context.Context, dir string, rules hosts.Retention, dry bool) (_ pruned, err error) {
	p := pruned{Folder: dir, DryRun: dry}
	if dry {
		var entries []etcdops.Entry
		entries, err = etcdops.List(dir)
		p.Kept, p.Deleted = etcdops.Retain(entries, rules, time.Now())
	} else {
		p.Kept, p.Deleted, err = etcdops.Prune(ctx, dir, rules, time.Now())
	}
	p.Kept, p.Deleted = nonNil(p.Kept), nonNil(p.Deleted)
	return p, err
}

func (o *options) printPruned(p pruned) error {
	if o.json() {
		return printJSON(o, p)
	}
	if len(p.Kept)+len(p.Deleted) == 0 {
		fmt.Fprintf(o.stdout, "No snapshots in %s.\n", p.Folder)
		return nil
	}
	out := newScreen(o.stdout)
	gone := "deleted"
	if p.DryRun {
		gone = "would go"
	}
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"SNAPSHOT", "TAKEN", "SIZE", "", "BECAUSE"})
	}
	row := func(d etcdops.Decision, what string) {
		rows = append(rows, []string{
			filepath.Base(d.Entry.Path), d.Entry.Taken.UTC().Format(time.RFC3339), bytes(d.Entry.Size), what, d.Reason,
		})
	}
	for _, d := range p.Kept {
		row(d, "stays")
	}
	for _, d := range p.Deleted {
		row(d, gone)
	}
	return out.rows(rows)
}
