package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

func newEtcdRecover(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on with this host's etcd alone, when the quorum is lost for good",
		Long: `recover is for when most of etcd's members are lost and will not come back. Run it on
one host that is left, the one with the most data: it says so where another has more.

It looks who answers, saves what this host has (from the running member, or from a copy
of its data folder with all that is in its log), prints every step, and asks. Then what
was saved is restored as a new cluster of this host alone, as 'snapshot restore' does: the
old data is kept, and goes back by itself on any failure.

The members that are lost must not come back: two of them could be a quorum of the old
cluster beside the new one. One that answers has to be stopped; of one that cannot be
reached you have to say that it is off (--fenced). When such a host comes back, its
nodeagent asks this one and does not start its etcd; 'nodeagent etcd rejoin' there puts
its old data aside, and joins it as a learner and then with a vote. What most members had
agreed on and this one had not heard of yet is lost.

While most members can come back, do not recover: bring them back.`,
		Example: `  nodeagent etcd recover --dry-run
  nodeagent etcd recover
  nodeagent etcd recover --fenced n2,n3
  nodeagent etcd rejoin                    then, on each other host that comes back`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	dry := flags.Bool("dry-run", false, "look, say whether it may be, and change nothing")
	yes := flags.Bool("yes", false, "do not ask")
	fenced := flags.StringSlice("fenced", nil, "other etcd `hosts` that cannot be reached and of which you know that their etcd is off")
	repair := flags.Bool("repair-space", false, "deal with the alarm NOSPACE: compact, defragment, switch it off")
	must(cmd.RegisterFlagCompletionFunc("fenced", o.completeMembers))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		bar := newBar(o, "saving")
		choices := agent.RecoverChoices{Fenced: *fenced, RepairSpace: *repair, Version: version(), Progress: bar.set}
		waiting := newWaiting(o, "asking the members")
		look, err := host.LookRecover(cmd.Context(), choices)
		waiting.close()
		if err != nil {
			return restoreHint(err)
		}
		if *dry && o.json() {
			return printJSON(o, look)
		}
		printRecoverLook(o, look)
		if *dry {
			return nil
		}
		plan, err := host.PlanRecover(cmd.Context(), look, choices, func(step, format string, args ...any) {
			fmt.Fprintf(o.stderr, "  %-8s %s\n", step, fmt.Sprintf(format, args...))
		})
		bar.close()
		if err != nil {
			return restoreHint(err)
		}
		defer plan.Close()
		return recoverEtcd(cmd, o, host, plan, *yes)
	}
	return cmd
}

// printRecoverLook says what was seen.
func printRecoverLook(o *options, look etcdops.RecoverLook) {
	var others []string
	for _, other := range look.Others {
		others = append(others, other.Member.Name+" "+otherText(other))
	}
	from := "its etcd runs without a quorum, and is saved as it is"
	if look.Source == etcdops.RecoverFolder {
		from = "its etcd does not run; a copy of its data, the log included, is saved"
	}
	fmt.Fprintf(o.prose(), "The cluster %s has no quorum: %s.\nThis host goes on alone: %s.\n\n", look.Cluster, strings.Join(others, ", "), from)
}

func otherText(other etcdops.Other) string {
	switch other.State {
	case etcdops.OtherStopped:
		return "is there and its etcd does not run"
	case etcdops.OtherSilent:
		return "cannot be reached and is said to be off"
	}
	return other.Detail
}

func recoverEtcd(cmd *cobra.Command, o *options, host *agent.Host, plan etcdops.RestorePlan, yes bool) error {
	if err := plan.WriteText(o.prose()); err != nil {
		return err
	}
	if !yes {
		if err := confirm(o, "Go on with this host alone?"); err != nil {
			return err
		}
	}
	var result etcdops.Result
	err := exclusively(cmd.Context(), func() error {
		steps := newSteps(o)
		defer steps.close()
		var err error
		result, err = host.Recover(cmd.Context(), plan, steps.report)
		return err
	})
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o, result)
	}
	fmt.Fprintf(o.stdout, "Recovered in %s: etcd answers with revision %d and %d keys.\nThe old data is kept in %s.\nOn each other host of etcd, when it is back: nodeagent etcd rejoin\n",
		result.Took.Round(100*time.Millisecond), result.Revision, result.Keys, result.KeptOld)
	return nil
}
