package main

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

// copies opens the places of this host's snapshots. It needs nothing of the host,
// so that it works elsewhere, too.
func (o *options) copies() (c *agent.Copies, done func(), err error) {
	spec, err := o.spec()
	if err != nil {
		return nil, nil, err
	}
	c, done = agent.OpenCopies("", spec, logger(o.stderr))
	return c, done, nil
}

// snapshotFile is the path of the file that a person means: a file's own, or that
// of a snapshot of a place, which is downloaded. done deletes the latter.
func (o *options) snapshotFile(cmd *cobra.Command, ref string) (file string, done func(), err error) {
	if _, _, ok := agent.SplitRef(ref); !ok {
		return ref, func() {}, nil
	}
	copies, leave, err := o.copies()
	if err != nil {
		return "", nil, withHint(err, "a file whose name has a colon is meant by ./"+ref)
	}
	bar := newBar(o, "fetching")
	file, remove, err := copies.Fetch(cmd.Context(), ref, bar.set)
	bar.close()
	leave()
	if err != nil {
		return "", nil, withHint(err, "`nodeagent snapshot list` shows what there is; a file whose name has a colon is meant by ./"+ref)
	}
	return file, func() {
		if err := remove(); err != nil {
			fmt.Fprintf(o.stderr, "warning: the download was not deleted: %v\n", err)
		}
	}, nil
}

// named is what a snapshot is called that a person named ref.
func named(ref, file string) string {
	if place, _, ok := agent.SplitRef(ref); ok {
		return place + ":" + path.Base(file)
	}
	return file
}

func newSnapshotCopy(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "copy [PLACE]…",
		Short: "Bring snapshots to the further places of the spec",
		Long: `copy brings this host's snapshots to the further places that the spec names
(snapshots.copies): those that the place's retention wants of all that lie on the host and
there, and that it does not have. It then deletes there what no rule keeps, of this host's
snapshots alone. 'nodeagent run' does the same after each snapshot, and tries again where a
place fails. What was interrupted goes on.

A place that has none of the snapshots that were brought there is not taken for new: the
share may not be mounted, or the bucket be another one. --accept-empty says that it is.`,
		Example: `  nodeagent snapshot copy
  nodeagent snapshot copy offsite -o json
  nodeagent snapshot copy offsite --accept-empty`,
		Args: cobra.ArbitraryArgs,
	}
	opts := agent.CopyOptions{}
	cmd.Flags().BoolVar(&opts.AcceptEmpty, "accept-empty", false, "take a place that has nothing any more for a new one")
	cmd.ValidArgsFunction = o.completePlace
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		copies, done, err := o.copies()
		if err != nil {
			return err
		}
		defer done()
		if len(copies.Names()) == 0 {
			return withHint(errors.New("the spec names no further place for snapshots"), "snapshots.copies does; see docs/spec.md")
		}
		opts.Only = args
		results, err := o.copySnapshots(cmd, copies, opts)
		if o.json() {
			return errors.Join(printJSON(o, map[string]any{"copies": results}), err)
		}
		o.printCopied(results)
		return err
	}
	return cmd
}

// copySnapshots brings snapshots to further places, with a bar.
func (o *options) copySnapshots(cmd *cobra.Command, copies *agent.Copies, opts agent.CopyOptions) ([]store.Result, error) {
	bar := newBar(o, "copying")
	defer bar.close()
	opts.Progress = func(place string, done, total int64) {
		bar.verb = "copying to " + place
		bar.set(done, total)
	}
	return copies.Copy(cmd.Context(), opts)
}

// printCopied says in one line for each place how it stands there; what failed is
// the error's to say.
func (o *options) printCopied(results []store.Result) {
	for _, r := range results {
		if r.Error != "" {
			fmt.Fprintf(o.stdout, "%s: failed; brought %d, missing %d.\n", r.Place, len(r.Brought), len(r.Missing))
			continue
		}
		fmt.Fprintf(o.stdout, "%s: brought %d, deleted %d; %d there, in %s.\n", r.Place, len(r.Brought), len(r.Deleted), r.Has, r.Where)
		o.printFindings(r)
	}
}

func (o *options) printFindings(r store.Result) {
	for _, lock := range r.Locked {
		fmt.Fprintf(o.stdout, "%s: %s is kept by object lock%s.\n", r.Place, lock.Name, until(lock.Until))
	}
	if len(r.Vanished) > 0 {
		fmt.Fprintf(o.stdout, "%s: missed there, and not deleted by this host: %s.\n", r.Place, strings.Join(r.Vanished, ", "))
	}
}

func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.UTC().Format(time.RFC3339)
}

func newSnapshotFetch(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch [NAME|latest]",
		Short: "Download a snapshot from a further place",
		Long: `fetch downloads a snapshot and its manifest into a folder, where they appear once they
are whole and as the manifest says. A download that breaks off goes on where it was.
Without a name it is the newest good one of the cluster, whichever host took it.`,
		Example: `  nodeagent snapshot fetch
  nodeagent snapshot fetch --from offsite --to /tmp/rescue
  nodeagent snapshot fetch offsite:mercury-mercury-20260101T000000Z.db.zst`,
	}
	from := cmd.Flags().String("from", "", "the `place` (default: the first one that the spec names)")
	to := cmd.Flags().String("to", "", "the `folder` to write to (default: snapshots.destination of the spec)")
	must(cmd.RegisterFlagCompletionFunc("from", o.completePlace))
	must(cmd.MarkFlagDirname("to"))
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) <= 1 {
			return nil
		}
		return exactlyOne("NAME")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		copies, done, err := o.copies()
		if err != nil {
			return err
		}
		defer done()
		place, name, err := whatToFetch(copies, *from, args)
		if err != nil {
			return err
		}
		bar := newBar(o, "fetching")
		file, entry, err := copies.FetchTo(cmd.Context(), place, name, *to, bar.set)
		bar.close()
		if err != nil {
			return withHint(err, "`nodeagent snapshot list` shows what there is")
		}
		if o.json() {
			return printJSON(o, map[string]any{"path": file, "place": place, "manifest": entry.Manifest})
		}
		fmt.Fprintf(o.stdout, "Fetched %s from %s: %s, revision %d, sha256 %s.\n",
			file, place, sizeOf(entry.Manifest.Stored, entry.Manifest.Size), entry.Manifest.Revision, entry.Manifest.Stored.SHA256)
		return nil
	}
	return cmd
}

// whatToFetch is the place and the name that a person means.
func whatToFetch(copies *agent.Copies, from string, args []string) (place, name string, err error) {
	name = store.Latest
	if len(args) == 1 {
		name = args[0]
		if place, rest, ok := agent.SplitRef(name); ok {
			if from != "" && from != place {
				return "", "", usageError{fmt.Errorf("--from %s and %s name two places", from, name)}
			}
			from, name = place, rest
		}
	}
	if from == hosts.LocalCopy {
		return "", "", usageError{errors.New("what is local is on this host already")}
	}
	if names := copies.Names(); from == "" && len(names) == 0 {
		return "", "", withHint(errors.New("the spec names no further place for snapshots"), "snapshots.copies does; see docs/spec.md")
	} else if from == "" {
		from = names[0]
	}
	return from, cmp.Or(name, store.Latest), nil
}

func (o *options) completePlace(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	spec, err := o.quietSpec()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range spec.Snapshots.Copies {
		if !slices.Contains(args, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// copyRows are the lines of the status about further places.
func copyRows(out screen, copies []agent.CopyStatus, now time.Time) [][]string {
	var rows [][]string
	for _, c := range copies {
		text := "never reached"
		if !c.Reached.IsZero() {
			text = fmt.Sprintf("%d there %s ago", len(c.Snapshots), age(now.Sub(c.Reached)))
		}
		if c.Error != "" {
			text += "; failed, " + fmt.Sprintf("%d missing", len(c.Missing))
		}
		rows = append(rows, []string{"copy " + c.Name, out.verdict(c.Error == "" && len(c.Vanished) == 0, text, text) + ", " + c.Where})
	}
	return rows
}
