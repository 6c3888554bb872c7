package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

func newSnapshotList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the snapshots of every place",
		Long: `list prints the snapshots of the spec's folder and of its further places, newest first,
one row for each with the places where it is good, from names, sizes and manifests. It
does not read the snapshots; 'snapshot verify' does. A place that cannot be asked is said,
the others are listed, and the exit code is 1.`,
		Example: `  nodeagent snapshot list
  nodeagent snapshot list --from offsite
  nodeagent snapshot list --from /mnt/backup -o json`,
		Args: noArgs,
	}
	from := cmd.Flags().String("from", "", "a `place` of the spec, or a folder (default: every place)")
	must(cmd.RegisterFlagCompletionFunc("from", o.completePlace))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := o.listSnapshots(cmd.Context(), *from)
		if err != nil {
			return err
		}
		var failed []error
		for _, p := range list.Places {
			if p.Error != "" {
				failed = append(failed, fmt.Errorf("list %s: %s", p.Name, p.Error))
			}
		}
		if o.json() {
			return errors.Join(printJSON(o, list), errors.Join(failed...))
		}
		return errors.Join(o.printSnapshots(list), errors.Join(failed...))
	}
	return cmd
}

// listed is what `snapshot list` found.
type listed struct {
	Places    []agent.Listing `json:"places"`
	Snapshots []listedRow     `json:"snapshots"`
}

// listedRow is one snapshot with the places where it is good.
type listedRow struct {
	etcdops.Entry
	Places []string `json:"places"`
}

func (o *options) listSnapshots(ctx context.Context, from string) (listed, error) {
	list := listed{Snapshots: []listedRow{}}
	if o.isFolder(from) {
		entries, err := etcdops.List(from)
		if err != nil {
			return list, err
		}
		list.Places = []agent.Listing{{Name: from, Where: from, Entries: entries}}
	} else {
		copies, done, err := o.copies()
		if err != nil {
			return list, err
		}
		defer done()
		if list.Places, err = copies.List(ctx, from); err != nil {
			return list, err
		}
	}
	list.Snapshots = merge(list.Places)
	return list, nil
}

// isFolder tells whether --from names a folder: by a slash, or because there is
// one, and no place of the spec is called so.
func (o *options) isFolder(from string) bool {
	if strings.Contains(from, "/") || from == "." || from == ".." {
		return true
	}
	if spec, err := o.quietSpec(); err == nil && (from == hosts.LocalCopy || slices.ContainsFunc(spec.Snapshots.Copies, func(c hosts.Copy) bool { return c.Name == from })) {
		return false
	}
	info, err := os.Stat(from)
	return err == nil && info.IsDir()
}

// merge makes one row of what is the same snapshot at several places. One that is
// good somewhere is shown as it is there.
func merge(places []agent.Listing) []listedRow {
	rows := []listedRow{}
	at := map[string]int{}
	for _, p := range places {
		for _, e := range p.Entries {
			name := path.Base(e.Path)
			i, seen := at[name]
			if !seen {
				i = len(rows)
				at[name], rows = i, append(rows, listedRow{Entry: e, Places: []string{}})
			}
			if e.Good() && !rows[i].Good() {
				rows[i].Entry = e
			}
			if e.Good() || !seen && !rows[i].Good() {
				rows[i].Places = append(rows[i].Places, p.Name)
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b listedRow) int {
		return cmp.Or(b.Taken.Compare(a.Taken), strings.Compare(b.Path, a.Path))
	})
	return rows
}

func (o *options) printSnapshots(list listed) error {
	if len(list.Snapshots) == 0 {
		for _, p := range list.Places {
			if p.Error == "" {
				fmt.Fprintf(o.stdout, "No snapshots in %s.\n", p.Where)
			}
		}
		return nil
	}
	out := newScreen(o.stdout)
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"SNAPSHOT", "TAKEN", "SIZE", "REVISION", "KEYS", "PLACES", "STATE"})
	}
	for _, e := range list.Snapshots {
		revision, keys, state := "?", "?", cmp.Or(e.Damage, "good")
		if e.Manifest != nil {
			revision, keys = fmt.Sprint(e.Manifest.Revision), fmt.Sprint(e.Manifest.Keys)
		} else if e.Damage == "" {
			state = "no manifest"
		}
		rows = append(rows, []string{
			path.Base(e.Path), e.Taken.UTC().Format(time.RFC3339), bytes(e.Size), revision, keys, strings.Join(e.Places, ","),
			out.verdict(e.Good(), state, state),
		})
	}
	return out.rows(rows)
}
