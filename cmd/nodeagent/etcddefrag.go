package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

func newEtcdDefrag(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Give the free space of etcd's database files back, one member at a time",
		Long: `defrag defragments this host's member, or with --all every member in its turn:
followers first, the leader last after it has handed the lead to another member. While a
member is defragmented it answers nothing, some seconds for each GiB.

It begins only where all members answer and are in step, looks again before each one,
and goes on when the last one is back and in step. A claim in etcd keeps two hosts from
doing it at once, and members from being restarted meanwhile. It can be interrupted; the
same command goes on with those that are left.`,
		Example: `  nodeagent etcd defrag --all --dry-run
  nodeagent etcd defrag --all --yes             from a timer: does nothing below the threshold
  nodeagent etcd defrag --threshold 0%          this host's member, however little is free`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	all := flags.Bool("all", false, "every member, one after the other")
	threshold := share(etcdops.DefaultThreshold)
	flags.Var(&threshold, "threshold", "only members of whose file this `share` is free")
	dry := flags.Bool("dry-run", false, "print the steps and change nothing")
	yes := flags.Bool("yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, site, view, err := o.looked(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		opts := etcdops.DefragOptions{Threshold: float64(threshold)}
		if !*all {
			if opts.Only = site.Self; site.Local == "" {
				return withHint(fmt.Errorf("host %q has no etcd member", site.Self), "--all defragments those of the other hosts")
			}
		}
		plan, err := etcdops.PlanDefrag(view, opts)
		if err != nil {
			return err
		}
		if *dry && o.json() {
			return printJSON(o, plan)
		}
		o.proseDefrag(plan)
		if *dry {
			return nil
		}
		if len(plan.Steps) > 0 && !*yes {
			if err := confirm(o, "Defragment?"); err != nil {
				return err
			}
		}
		var done []etcdops.DefragDone
		if len(plan.Steps) > 0 {
			err = exclusively(cmd.Context(), func() (err error) {
				c := newChange(o)
				defer c.pause()
				done, err = etcdops.Defrag(cmd.Context(), site, plan, c.told)
				return err
			})
		}
		return errors.Join(o.printDefragged(plan, done), err)
	}
	return cmd
}

func (o *options) proseDefrag(plan etcdops.DefragPlan) {
	out := o.prose()
	for i, s := range plan.Steps {
		lead := ""
		if s.Leads {
			lead = ", after it has handed the lead over"
		}
		fmt.Fprintf(out, "%d. defragment %s%s: %s, %s\n", i+1, s.Member, lead, bytes(s.DBSize), s.Because)
	}
	for _, s := range plan.Skipped {
		fmt.Fprintf(out, "-  %s stays: %s\n", s.Member, s.Because)
	}
	for _, w := range plan.Warnings {
		fmt.Fprintf(out, "warning: %s\n", w)
	}
}

func (o *options) printDefragged(plan etcdops.DefragPlan, done []etcdops.DefragDone) error {
	if o.json() {
		return printJSON(o, map[string]any{"done": nonNil(done), "skipped": nonNil(plan.Skipped)})
	}
	if len(plan.Steps) == 0 {
		fmt.Fprintln(o.stdout, "Nothing to do.")
	}
	for _, d := range done {
		fmt.Fprintf(o.stdout, "%s: %s, it was %s; %s.\n", d.Member, bytes(d.After), bytes(d.Before), d.Took.Round(time.Millisecond))
	}
	return nil
}
