package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
)

func newSnapshotUndo(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "undo [FOLDER]",
		Short: "Bring back the etcd data that a restore put aside",
		Long: `undo brings back the data folder that the last restore put aside, or the one that is
named; --list shows them. It is a restore in itself: it reads the data in full, prints
every step and asks, stops kube-apiserver and etcd, exchanges the folders, starts etcd and
proves its cluster and revision; what was live until then is kept in its turn, so the same
command goes forth and back. When etcd does not prove itself everything is as before.

Of a cluster with several members each host is undone: stop nodeagent and etcd on every
host, then run undo on each. As with a restore no other etcd may run meanwhile, unless it
runs with data of the same cluster.`,
		Example: `  nodeagent snapshot undo --list
  nodeagent snapshot undo --dry-run
  nodeagent snapshot undo
  nodeagent snapshot undo /var/lib/nodeagent/etcd/data.before-restore-20260101T000000Z --yes`,
		Args: atMostOne("FOLDER"),
	}
	flags := cmd.Flags()
	yes := flags.Bool("yes", false, "do not ask")
	dryRun := flags.Bool("dry-run", false, "print the steps and change nothing")
	list := flags.Bool("list", false, "list the data that was put aside")
	fenced := flags.StringSlice("fenced", nil, "other etcd `hosts` that cannot be reached and of which you know that their etcd is off, and stays so")
	wait := flags.Duration("wait", 0, "how long etcd may take to prove itself, the other hosts included (default: 3m alone, 30m in a fleet)")
	must(cmd.RegisterFlagCompletionFunc("fenced", o.completeMembers))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		if *list {
			return printKept(o, host)
		}
		folder := ""
		if len(args) == 1 {
			folder = args[0]
		}
		waiting := newWaiting(o, "reading the data")
		plan, err := host.PlanUndo(cmd.Context(), folder, *fenced, *wait)
		waiting.close()
		if err != nil {
			return restoreHint(err)
		}
		return restore(cmd, o, host, plan, *dryRun, *yes)
	}
	return cmd
}

func printKept(o *options, host *agent.Host) error {
	kept, err := host.KeptData()
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o, nonNil(kept))
	}
	if len(kept) == 0 {
		fmt.Fprintln(o.stdout, "No data of etcd was put aside on this host.")
		return nil
	}
	out := newScreen(o.stdout)
	var rows [][]string
	if out.table {
		rows = append(rows, []string{"DATA", "PUT ASIDE", "BY", "CLUSTER"})
	}
	for _, k := range kept {
		rows = append(rows, []string{k.Path, k.Aside.Format(time.RFC3339), k.Why, k.Cluster})
	}
	return out.rows(rows)
}
