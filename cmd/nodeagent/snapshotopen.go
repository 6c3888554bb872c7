package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// opening are the flags of the commands that open a snapshot.
type opening struct {
	skipHash   *bool
	identities *[]string
	scratch    *string
	unsigned   *bool
}

func openingFlags(cmd *cobra.Command) opening {
	flags := cmd.Flags()
	o := opening{
		skipHash:   flags.Bool("skip-hash", false, "accept a database without a trailer, as copied from a data folder"),
		identities: flags.StringArrayP("identity", "i", nil, "a `file` of age identities that open an encrypted snapshot (default: snapshots.identity_file of the spec)"),
		unsigned:   flags.Bool("unsigned", false, "accept a snapshot that no host of the fleet has signed: know where it comes from"),
		scratch:    flags.String("scratch", "", "the `folder` where a compressed or encrypted snapshot lies unpacked, without a name, for as long as it takes (default: one of nodeagent's own, elsewhere than on a host the snapshot's)"),
	}
	must(cmd.MarkFlagFilename("identity"))
	must(cmd.MarkFlagDirname("scratch"))
	return o
}

// options reads the identities, and whose snapshots are believed. Where none
// are named it takes those of the spec, if this machine has one: to verify a
// snapshot needs no fleet.
func (f opening) options(cmd *cobra.Command, o *options) (etcdops.VerifyOptions, error) {
	trust, err := f.trust(cmd, o)
	if err != nil {
		return etcdops.VerifyOptions{}, err
	}
	paths := *f.identities
	spec := o.knownSpec()
	if file := spec.Snapshots.IdentityFile; len(paths) == 0 && file != "" {
		paths = []string{file}
	}
	identities, err := etcdops.ReadIdentities(paths...)
	if err != nil {
		return etcdops.VerifyOptions{}, err
	}
	if id := agent.VaultIdentity(cmd.Context(), "", spec, slog.New(slog.DiscardHandler)); id != nil {
		identities = append(identities, id) // the last one, so that Vault is asked only where it must be
	}
	scratch := *f.scratch
	if own := layout.Root(""); scratch == "" && exists(own.State()) {
		scratch = own.Scratch() // the snapshot's folder may be somebody else's disk
	}
	return etcdops.VerifyOptions{
		OpenOptions: etcdops.OpenOptions{Identities: identities, Trust: trust, Scratch: scratch}, SkipHash: *f.skipHash,
	}, nil
}

// trust is whose snapshots are believed: those of the fleet's hosts, and without
// a fleet on this machine everybody's, which is said. A fleet that cannot be
// read is not taken for none.
func (f opening) trust(cmd *cobra.Command, o *options) (etcdops.Trust, error) {
	fleet, err := o.load()
	switch {
	case err == nil:
		return etcdops.Trust{Signers: etcdops.FleetSigners(fleet), Unsigned: *f.unsigned}, nil
	case *f.unsigned, errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("fleet"):
		return etcdops.Trust{Unsigned: *f.unsigned}, nil
	}
	return etcdops.Trust{}, withHint(fmt.Errorf("read who signs the fleet's snapshots: %w", err), "name another fleet with --fleet, or take --unsigned to open it whoever signed it")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newSnapshotCat(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cat FILE|PLACE:NAME",
		Short: "Print a snapshot as etcd sent it",
		Long: `cat verifies the snapshot and then writes it to standard output as etcd sent it: the
plain database with its sha256 trailer, which etcdutl restores. Nothing is written of a
snapshot that is not whole.`,
		Example: `  nodeagent snapshot cat mercury-mercury-20260101T000000Z.db.zst >plain.db`,
		Args:    exactlyOne("FILE"), ValidArgsFunction: upTo(1, o.completeSnapshot),
	}
	flags := openingFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if terminal(o.stdout) {
			return usageError{withHint(errors.New("the snapshot is binary, and standard output is a terminal"), "redirect it to a file, or use `nodeagent snapshot export`")}
		}
		return o.export(cmd, flags, args[0], func(file string, opts etcdops.VerifyOptions) (etcdops.Report, error) {
			return etcdops.Export(cmd.Context(), file, opts, o.stdout)
		}, io.Discard)
	}
	return cmd
}

func newSnapshotExport(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE|PLACE:NAME TO",
		Short: "Write a snapshot as etcd sent it into another file",
		Long: `export verifies the snapshot and then writes it as etcd sent it into the file TO: the
plain database with its sha256 trailer, which etcdutl restores. TO appears whole or not
at all, readable for its owner alone; one that is there is not written over.`,
		Example: `  nodeagent snapshot export mercury-mercury-20260101T000000Z.db.zst.age plain.db --identity key.txt
  etcdutl snapshot restore plain.db --data-dir restored
  nodeagent snapshot export offsite:latest plain.db`,
	}
	flags := openingFlags(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usageError{withHint(fmt.Errorf("%s takes FILE and TO, %d given", cmd.CommandPath(), len(args)), fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
		}
		return nil
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 { // TO
			return nil, cobra.ShellCompDirectiveDefault
		}
		return o.completeSnapshot(cmd, args, typed)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.export(cmd, flags, args[0], func(file string, opts etcdops.VerifyOptions) (etcdops.Report, error) {
			return etcdops.ExportFile(cmd.Context(), file, opts, args[1])
		}, o.stdout)
	}
	return cmd
}

func (o *options) export(cmd *cobra.Command, flags opening, ref string, do func(string, etcdops.VerifyOptions) (etcdops.Report, error), out io.Writer) error {
	opts, err := flags.options(cmd, o)
	if err != nil {
		return err
	}
	file, done, err := o.snapshotFile(cmd, ref)
	if err != nil {
		return err
	}
	defer done()
	bar := newBar(o, "verifying")
	opts.Progress = bar.set
	report, err := do(file, opts)
	bar.close()
	if err != nil {
		return err
	}
	report.Path = named(ref, file)
	if o.json() && out != io.Discard {
		return printJSON(o, report)
	}
	fmt.Fprintf(out, "Exported %s: %s, revision %d, %d keys, sha256 %s.\n", report.Path, bytes(report.Size), report.Revision, report.Keys, report.SHA256)
	return nil
}
