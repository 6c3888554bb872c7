package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

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
(.db.zst.age) as the spec says, with a manifest <…>.json beside it.`,
		Example: `  nodeagent snapshot
  nodeagent snapshot list
  nodeagent snapshot verify /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot restore /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst`,
		Args: noArgs,
		RunE: save.RunE,
	}
	cmd.Flags().AddFlagSet(save.Flags())
	cmd.AddCommand(save, newSnapshotList(o), newSnapshotVerify(o), newSnapshotRestore(o), newSnapshotPrune(o),
		newSnapshotCat(o), newSnapshotExport(o), newSnapshotDrill(o), newSnapshotKey(o))
	return cmd
}

func newSnapshotSave(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "save",
		Short: "Take an etcd snapshot",
		Long: `save streams a snapshot from this host's etcd member over mTLS, checks its sha256
while it comes, and writes it durably with a manifest. No partial file stays, whatever
happens. Older snapshots are not touched; 'nodeagent run' prunes after its scheduled
ones.`,
		Example: `  nodeagent snapshot save
  nodeagent snapshot save --to /mnt/backup -o json`,
		Args: noArgs,
	}
	to := cmd.Flags().String("to", "", "the `folder` to write to (default: snapshots.destination of the spec)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		dir := cmp.Or(*to, host.Spec().Snapshots.Destination)
		bar := newBar(o, "saving")
		manifest, err := host.SaveSnapshot(cmd.Context(), dir, version(), bar.set)
		bar.close()
		if err != nil {
			return withHint(err, "`nodeagent status` tells how etcd is")
		}
		if o.json() {
			return printJSON(o, struct {
				Path string `json:"path"`
				etcdops.Manifest
			}{manifest.Path(dir), manifest})
		}
		fmt.Fprintf(o.stdout, "Saved %s: %s, revision %d, %d keys, sha256 %s.\n",
			manifest.Path(dir), sizeOf(manifest.Stored, manifest.Size), manifest.Revision, manifest.Keys, manifest.Stored.SHA256)
		return nil
	}
	return cmd
}

func newSnapshotList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the snapshots of a folder",
		Long: `list prints the snapshots of the spec's destination, newest first, from their names,
sizes and manifests. It does not read the snapshots; 'snapshot verify' does.`,
		Example: `  nodeagent snapshot list
  nodeagent snapshot list --from /mnt/backup -o json`,
		Args: noArgs,
	}
	from := cmd.Flags().String("from", "", "the `folder` to list (default: snapshots.destination of the spec)")
	cmd.RunE = func(*cobra.Command, []string) error {
		dir := *from
		if dir == "" {
			spec, err := o.spec()
			if err != nil {
				return err
			}
			dir = spec.Snapshots.Destination
		}
		entries, err := etcdops.List(dir)
		if err != nil {
			return err
		}
		if o.json() {
			return printJSON(o, map[string]any{"folder": dir, "snapshots": nonNil(entries)})
		}
		return printSnapshots(o, dir, entries)
	}
	return cmd
}

func printSnapshots(o *options, dir string, entries []etcdops.Entry) error {
	if len(entries) == 0 {
		fmt.Fprintf(o.stdout, "No snapshots in %s.\n", dir)
		return nil
	}
	out := newScreen(o.stdout)
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"SNAPSHOT", "TAKEN", "SIZE", "REVISION", "KEYS", "STATE"})
	}
	for _, e := range entries {
		revision, keys, state := "?", "?", cmp.Or(e.Damage, "good")
		if e.Manifest != nil {
			revision, keys = fmt.Sprint(e.Manifest.Revision), fmt.Sprint(e.Manifest.Keys)
		} else if e.Damage == "" {
			state = "no manifest"
		}
		rows = append(rows, []string{
			filepath.Base(e.Path), e.Taken.UTC().Format(time.RFC3339), bytes(e.Size), revision, keys,
			out.verdict(e.Good(), state, state),
		})
	}
	return out.rows(rows)
}

func newSnapshotVerify(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Prove that a snapshot is whole and that etcd can open it",
		Long: `verify reads the whole file: its sha256 trailer and its manifest, every page of the
database, and every key through etcd's own storage code. It changes nothing and needs
neither a fleet nor a running etcd. With a fleet that names its hosts' snapshot keys
(snapshots.public_keys) it refuses a snapshot that none of them has signed.`,
		Example: `  nodeagent snapshot verify mercury-mercury-20260101T000000Z.db.zst`,
		Args:    exactlyOne("FILE"),
	}
	flags := openingFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts, err := flags.options(cmd, o)
		if err != nil {
			return err
		}
		bar := newBar(o, "verifying")
		opts.Objects, opts.Progress = true, bar.set
		report, err := etcdops.Verify(cmd.Context(), args[0], opts)
		bar.close()
		if err != nil {
			return err
		}
		if o.json() {
			return printJSON(o, report)
		}
		printReport(o, report)
		return nil
	}
	return cmd
}

func printReport(o *options, r etcdops.Report) {
	trailer := "its sha256 trailer matches"
	if !r.Trailer {
		trailer = "it has no trailer"
	}
	manifest := "its manifest matches"
	if r.Manifest == nil {
		manifest = "it has no manifest"
	}
	fmt.Fprintf(o.stdout, "%s is sound: %s, %s, etcd can open it.\n", r.Path, trailer, manifest)
	fmt.Fprintf(o.stdout, "%s, revision %d, %d keys, storage version %s, members %s.\n",
		sizeOf(r.Stored, r.Size), r.Revision, r.Keys, cmp.Or(r.StorageVersion, "before 3.6"), cmp.Or(strings.Join(r.Members, ", "), "none"))
	fmt.Fprintf(o.stdout, "Signature: %s.\n", r.Signature.Text)
	if len(r.Alarms) > 0 {
		fmt.Fprintf(o.stdout, "Alarms that a restore would bring back: %s.\n", strings.Join(r.Alarms, ", "))
	}
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
