package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

func newEtcdReaddress(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "readdress HOST",
		Short: "Have etcd's cluster find a host's member at its new address",
		Long: `readdress is for a host whose address has changed in the fleet. Most times nothing is to
be done: 'nodeagent apply' on that host, or its service, issues etcd's certificates for the
new address, tells the cluster, restarts the member there, and has the cluster forget the
old address. readdress does the cluster's part from any host of etcd, and waits until the
member listens at the new address.

Members move one at a time, and only while there is a quorum and all other members
serve. Where all hosts have got other addresses at once and there is no quorum any more,
restore a snapshot on all of them: a restore takes today's addresses.`,
		Example: `  nodeagent etcd readdress n2 --dry-run
  nodeagent etcd readdress n2`,
		Args: exactlyOne("HOST"),
	}
	flags := cmd.Flags()
	dry := flags.Bool("dry-run", false, "say what would be done and change nothing")
	patience := flags.Duration("patience", 30*time.Minute, "how long the host may take to listen at its new address")
	cmd.ValidArgsFunction = upTo(1, o.completeMember)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, site, view, err := o.looked(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		step, member, err := etcdops.NextAddress(view, args[0])
		if err != nil {
			return err
		}
		done := etcdops.Readdressed{Host: args[0], From: member.PeerURLs, To: member.Fleet.PeerURL}
		if !*dry && step != etcdops.AddressDone {
			c := newChange(o)
			done, err = etcdops.Readdress(cmd.Context(), site, etcdops.ReaddressOptions{Host: args[0], Peer: host.EtcdPeerTLS(), Patience: *patience}, c.told)
			c.pause()
			if err != nil {
				return err
			}
		}
		if o.json() {
			return printJSON(o, map[string]any{"host": done.Host, "next": step, "from": done.From, "to": done.To})
		}
		switch {
		case step == etcdops.AddressDone:
			fmt.Fprintf(o.stdout, "The cluster finds %s at %s; nothing to do.\n", done.Host, done.To)
		case *dry:
			fmt.Fprintf(o.stdout, "The cluster finds %s at %s; it is to be at %s.\n", done.Host, strings.Join(done.From, ", "), done.To)
		default:
			fmt.Fprintf(o.stdout, "The cluster finds %s at %s; it was %s.\n", done.Host, done.To, strings.Join(done.From, ", "))
		}
		return nil
	}
	return cmd
}
