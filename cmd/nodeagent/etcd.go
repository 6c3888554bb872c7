package main

import (
	"github.com/spf13/cobra"
)

func newEtcd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "etcd",
		Short: "See how etcd's cluster is, and look after it",
		Long: `etcd is about the whole etcd cluster of the fleet, seen from this host. Every
operation prints what it will do and asks first, does one member at a time, and does
nothing while another host does something to etcd.`,
		Example: `  nodeagent etcd status --hash
  nodeagent etcd defrag --all
  nodeagent etcd replace n2
  nodeagent etcd recover`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEtcdStatus(o), newEtcdMembers(o), newEtcdDefrag(o), newEtcdMoveLeader(o), newEtcdDisarm(o), newEtcdReplace(o), newEtcdInit(o), newEtcdRecover(o), newEtcdRejoin(o), newEtcdReaddress(o))
	return cmd
}
