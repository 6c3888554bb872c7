package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/layout"
)

func newSnapshotKey(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "Print the public key that checks this host's snapshots; make the key if there is none",
		Long: `key prints the public half of the key with which this host signs the manifests of its
snapshots. The private key is made if there is none, stays on the host and is never
printed. It needs no fleet. Put the result into the host's file, table [snapshots]:
from then on 'snapshot verify' and 'snapshot restore' refuse a snapshot that says it is
this host's and is not signed by it. A key of before stays in the list for as long as
snapshots that it has signed are worth something.`,
		Example: `  nodeagent snapshot key
  nodeagent snapshot key -o json | jq -r .publicKey`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			signer, made, err := etcdops.HostSigner("")
			if errors.Is(err, fs.ErrPermission) {
				return withHint(err, "the key is root's: run this as root")
			}
			if err != nil {
				return err
			}
			public, file := signer.PublicKey(), layout.Root("").SnapshotKey()
			declared := slices.Contains(o.knownSpec().Snapshots.PublicKeys, public)
			if o.json() {
				return printJSON(o, snapshotKey{public, file, made, declared})
			}
			what := "the private key is in"
			if made {
				what = "made a private key, which stays in"
			}
			fmt.Fprintf(o.stderr, "%s %s\n", what, file)
			if !declared {
				fmt.Fprintf(o.stderr, "the fleet does not name it yet; in the host's file:\n  [snapshots]\n  public_keys = [%q]\n", public)
			}
			_, err = fmt.Fprintln(o.stdout, public)
			return err
		},
	}
}

// snapshotKey is what key prints as JSON.
type snapshotKey struct {
	PublicKey string `json:"publicKey"`
	File      string `json:"file"` // of the private key
	Made      bool   `json:"made"`
	// Declared tells that the fleet names it for this host.
	Declared bool `json:"declared"`
}
