package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

func newEtcdRejoin(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rejoin",
		Short: "Put this host's old etcd data aside, and join the cluster that there is",
		Long: `rejoin is for a host that comes back with data of a cluster which another one has taken
the place of, by 'nodeagent etcd recover' or a restore without this host. nodeagent does
not start etcd with such data. rejoin stops etcd if it runs, renames its data folder
aside (it is kept), and then does what 'nodeagent etcd replace' does for this host: it
joins as a learner, gets the data, and its vote when it has caught up.

nodeagent starts the member meanwhile; its service has to run here, or 'nodeagent apply'.

Data of the cluster that serves, or of one that nobody has said was replaced, stays where
it is. It can be interrupted; the same command goes on.`,
		Example: `  nodeagent etcd rejoin --dry-run
  nodeagent etcd rejoin`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	dry := flags.Bool("dry-run", false, "say what would be done and change nothing")
	yes := flags.Bool("yes", false, "do not ask")
	patience := flags.Duration("patience", 30*time.Minute, "how long the member may take to be started, and to catch up")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		waiting := newWaiting(o, "asking the other hosts")
		plan, err := host.PlanRejoin(cmd.Context())
		waiting.close()
		if err != nil {
			return restoreHint(err)
		}
		if *dry && o.json() {
			return printJSON(o, plan)
		}
		printRejoin(o, plan)
		if *dry {
			return nil
		}
		if !*yes {
			if err := confirm(o, "Join?"); err != nil {
				return err
			}
		}
		c := newChange(o)
		defer c.pause()
		if err := exclusively(cmd.Context(), func() error { return host.PutAside(cmd.Context(), plan, c.told) }); err != nil {
			return err
		}
		done, err := host.Rejoin(cmd.Context(), *patience, c.told)
		c.pause()
		if err != nil {
			return err
		}
		return o.printReplaced(done)
	}
	return cmd
}

func printRejoin(o *options, plan etcdops.RejoinPlan) {
	out := o.prose()
	if plan.Data != "" {
		fmt.Fprintf(out, "1. stop etcd, and keep its data of the cluster %s in %s\n2. ", plan.Own, plan.Aside)
	}
	fmt.Fprintf(out, "join the cluster %s that %s serves: as a learner, and with a vote when it has caught up\n", plan.Cluster, plan.From)
}
