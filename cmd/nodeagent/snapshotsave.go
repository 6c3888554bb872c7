package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
)

func newSnapshotSave(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "save",
		Short: "Take an etcd snapshot",
		Long: `save streams a snapshot from an etcd member of the fleet over mTLS, checks its sha256
while it comes, and writes it durably with a manifest that this host signs. The member
is one that agrees with the majority, a follower before the leader, this host's own
before another's; without a quorum what is left is saved. No partial file stays,
whatever happens. It then brings what is missing to the further places that the spec names; where
one fails, the exit code is 1, the snapshot on the host stays, and 'nodeagent run' tries
again. Older snapshots are not touched; 'nodeagent run' prunes after its scheduled ones.`,
		Example: `  nodeagent snapshot save
  nodeagent snapshot save --no-copies
  nodeagent snapshot save --to /mnt/backup -o json`,
		Args: noArgs,
	}
	to := cmd.Flags().String("to", "", "the `folder` to write to, and to no further place (default: snapshots.destination of the spec)")
	alone := cmd.Flags().Bool("no-copies", false, "do not bring it to further places; 'nodeagent run' does")
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
		copies := []store.Result{}
		if *to == "" && !*alone {
			copies, err = o.copySnapshots(cmd, host.Copies(), agent.CopyOptions{KeepAll: true})
		}
		err = withHint(err, "the snapshot is saved on this host; `nodeagent snapshot copy` tries the other places again, and so does `nodeagent run`")
		return errors.Join(o.printSaved(manifest, dir, copies), err)
	}
	return cmd
}

func (o *options) printSaved(m etcdops.Manifest, dir string, copies []store.Result) error {
	if o.json() {
		return printJSON(o, struct {
			Path string `json:"path"`
			etcdops.Manifest
			Copies []store.Result `json:"copies"`
		}{m.Path(dir), m, copies})
	}
	fmt.Fprintf(o.stdout, "Saved %s: %s, revision %d, %d keys, sha256 %s.\n",
		m.Path(dir), sizeOf(m.Stored, m.Size), m.Revision, m.Keys, m.Stored.SHA256)
	o.printNotes(m)
	o.printCopied(copies)
	return nil
}
