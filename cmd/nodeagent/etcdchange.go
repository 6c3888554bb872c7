package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

// change is one operation on the etcd cluster that is under way: its steps are
// told on standard error.
type change struct {
	o    *options
	wait *waiting
}

func newChange(o *options) *change { return &change{o: o} }

// told prints a step; what follows is waited for under its name.
func (c *change) told(step, format string, args ...any) {
	c.pause()
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(c.o.stderr, "  %-8s %s\n", step, text)
	c.wait = newWaiting(c.o, "  "+step)
}

func (c *change) pause() {
	if c.wait != nil {
		c.wait.close()
		c.wait = nil
	}
}

// prose is where plans are printed: standard output, unless that is for JSON.
func (o *options) prose() io.Writer {
	if o.json() {
		return o.stderr
	}
	return o.stdout
}

// looked opens the host and looks at its etcd cluster.
func (o *options) looked(cmd *cobra.Command) (*agent.Host, etcdops.Site, etcdops.View, error) {
	host, err := o.open(cmd)
	if err != nil {
		return nil, etcdops.Site{}, etcdops.View{}, err
	}
	site, err := host.EtcdSite()
	if err != nil {
		return nil, site, etcdops.View{}, errors.Join(err, host.Close())
	}
	wait := newWaiting(o, "asking the members")
	defer wait.close()
	return host, site, etcdops.Look(cmd.Context(), site, false), nil
}

// exclusively keeps this host's own agent from restarting components meanwhile.
func exclusively(ctx context.Context, f func() error) error {
	lock, err := agent.Acquire(ctx, "", []string{agent.DomainUnits}, lockPatience)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Release())
}

// share is a flag's value such as 45% or 0.45.
type share float64

func (s *share) String() string { return percent(float64(*s)) }
func (s *share) Type() string   { return "share" }

func (s *share) Set(text string) error {
	number, isPercent := strings.CutSuffix(text, "%")
	value, err := strconv.ParseFloat(number, 64)
	if isPercent {
		value /= 100
	}
	if err != nil || value < 0 || value > 1 {
		return fmt.Errorf("%q is no share from 0%% to 100%%", text)
	}
	*s = share(value)
	return nil
}

func newEtcdMoveLeader(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "move-leader [MEMBER]",
		Short: "Hand the lead of etcd to another member",
		Long: `move-leader hands the lead to the member that is named, or to the follower that is
most in step, and returns when that one leads. Writes that come in that moment may fail
and have to be tried again.`,
		Example: `  nodeagent etcd move-leader
  nodeagent etcd move-leader n2`,
		Args: atMostOne("MEMBER"), ValidArgsFunction: upTo(1, o.completeMember),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, site, view, err := o.looked(cmd)
			if err != nil {
				return err
			}
			defer host.Close()
			to := strings.Join(args, "")
			if leader, target, err := etcdops.PlanMoveLeader(view, to); err != nil {
				return err
			} else if leader.Name == target.Name {
				return o.printLeader(leader.Name, leader.Name)
			}
			c := newChange(o)
			from, now, err := etcdops.MoveLeader(cmd.Context(), site, to, c.told)
			c.pause()
			if err != nil {
				return err
			}
			return o.printLeader(from, now)
		},
	}
}

func (o *options) printLeader(from, now string) error {
	if o.json() {
		return printJSON(o, map[string]any{"from": from, "leader": now, "moved": from != now})
	}
	if from == now {
		fmt.Fprintf(o.stdout, "%s leads already.\n", now)
		return nil
	}
	fmt.Fprintf(o.stdout, "%s leads; it was %s.\n", now, from)
	return nil
}

// atMostOne is a cobra argument check whose error names the argument.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{withHint(fmt.Errorf("%s takes at most one %s, %d given", cmd.CommandPath(), name, len(args)),
				fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
		}
		return nil
	}
}

func newEtcdDisarm(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disarm",
		Short: "Do away with the reason of etcd's alarms, and switch them off",
		Long: `disarm deals with the alarms that are on.

NOSPACE, the cluster takes no writes since a member's database has reached its quota:
the history is compacted, every member defragmented in its turn, and when each has room
again the alarm is switched off. Where there is no room it stays on.

CORRUPT, a member's data differ from the others': it is never just switched off. disarm
says which member is to be replaced and how; when that was done and all members' data
are alike by their hashes, disarm switches the alarm of the removed member off.

It can be interrupted; the same command goes on.`,
		Example: `  nodeagent etcd disarm --dry-run
  nodeagent etcd disarm --yes`,
		Args: noArgs,
	}
	dry := cmd.Flags().Bool("dry-run", false, "print the steps and change nothing")
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, site, view, err := o.looked(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		plan, err := etcdops.PlanDisarm(view)
		if err != nil {
			return err
		}
		if *dry && o.json() {
			return printJSON(o, plan)
		}
		if len(plan.Steps) == 0 {
			return o.printDisarmed(plan)
		}
		for i, step := range plan.Steps {
			fmt.Fprintf(o.prose(), "%d. %s\n", i+1, step)
		}
		if *dry {
			return nil
		}
		if !*yes {
			if err := confirm(o, "Go on?"); err != nil {
				return err
			}
		}
		err = exclusively(cmd.Context(), func() error {
			c := newChange(o)
			defer c.pause()
			_, err := etcdops.Disarm(cmd.Context(), site, plan, c.told)
			return err
		})
		if err != nil {
			return err
		}
		return o.printDisarmed(plan)
	}
	return cmd
}

func (o *options) printDisarmed(plan etcdops.DisarmPlan) error {
	if o.json() {
		return printJSON(o, map[string]any{"disarmed": nonNil(plan.Alarms)})
	}
	if len(plan.Alarms) == 0 {
		fmt.Fprintln(o.stdout, "No alarm is on; nothing to do.")
		return nil
	}
	fmt.Fprintf(o.stdout, "%d alarm(s) switched off; the cluster takes writes.\n", len(plan.Alarms))
	return nil
}
