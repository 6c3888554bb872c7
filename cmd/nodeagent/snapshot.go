package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

func newSnapshot(o *options) *cobra.Command {
	save := newSnapshotSave(o)
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Take, list, verify and restore etcd snapshots",
		Long: `snapshot takes a snapshot of this host's etcd; that is short for 'snapshot save'.
A snapshot is one file <cluster>-<host>-<time>.db, compressed (.db.zst) and encrypted
(.db.zst.age) as the spec says, with a manifest <…>.json beside it. It is saved on the
host first, and then brought to the further places that the spec names
(snapshots.copies). Where a command takes a FILE, it takes PLACE:NAME and PLACE:latest,
too; "local" is the folder on the host, and latest the newest good one of the cluster.`,
		Example: `  nodeagent snapshot
  nodeagent snapshot list
  nodeagent snapshot verify /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot restore /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst`,
		Args: noArgs,
		RunE: save.RunE,
	}
	cmd.Flags().AddFlagSet(save.Flags())
	cmd.AddCommand(save, newSnapshotList(o), newSnapshotVerify(o), newSnapshotRestore(o), newSnapshotPrune(o),
		newSnapshotCat(o), newSnapshotExport(o), newSnapshotUndo(o), newSnapshotKey(o), newSnapshotCopy(o), newSnapshotFetch(o), newSnapshotDrill(o))
	return cmd
}

func newSnapshotVerify(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE|PLACE:NAME",
		Short: "Prove that a snapshot is whole and that etcd can open it",
		Long: `verify reads the whole file: its sha256 trailer and its manifest, every page of the
database, and every key through etcd's own storage code. It changes nothing and needs
neither a fleet nor a running etcd; one of a further place is downloaded for it, and needs
the fleet that names the place. With a fleet that names its hosts' snapshot keys
(snapshots.public_keys) it refuses a snapshot that none of them has signed.`,
		Example: `  nodeagent snapshot verify mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot verify offsite:latest`,
		Args: exactlyOne("FILE"), ValidArgsFunction: upTo(1, o.completeSnapshot),
	}
	flags := openingFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts, err := flags.options(cmd, o)
		if err != nil {
			return err
		}
		file, done, err := o.snapshotFile(cmd, args[0])
		if err != nil {
			return err
		}
		defer done()
		bar := newBar(o, "verifying")
		opts.Objects, opts.Progress = true, bar.set
		report, err := etcdops.Verify(cmd.Context(), file, opts)
		bar.close()
		if err != nil {
			return err
		}
		report.Path = named(args[0], file)
		if o.json() {
			return printJSON(o, report)
		}
		printReport(o, report)
		return nil
	}
	return cmd
}

// sizeOf prints how large a snapshot is, and what for a file it lies in:
// "38.1 MiB (zstd, age; 120.0 MiB unpacked)".
func sizeOf(stored etcdops.Stored, size int64) string {
	text := bytes(stored.Size)
	form := strings.Trim(stored.Compression+", "+stored.Encryption, ", ")
	if form == "" {
		return text
	}
	return fmt.Sprintf("%s (%s; %s unpacked)", text, form, bytes(size))
}

// exactlyOne is a cobra argument check whose error names the argument.
func exactlyOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{withHint(fmt.Errorf("%s takes one %s, %d given", cmd.CommandPath(), name, len(args)),
				fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
		}
		return nil
	}
}

func printJSON(o *options, v any) error {
	enc := json.NewEncoder(o.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// nonNil makes an empty list print as [] and not as null.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// bytes prints a size for people: "37.4 MiB".
func bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	size, prefix := float64(n), 0
	for size >= unit && prefix < 4 {
		size /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", size, " KMGT"[prefix])
}
