package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/etcdops"
)

func newEtcdReplace(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replace HOST",
		Short: "Replace a dead host's etcd member by its reinstalled self",
		Long: `replace takes the dead member of a host out of the cluster, makes a place for a new
one as a learner, waits until nodeagent on the host, which may be set up before or
meanwhile, has started it there with an empty data folder, and gives it its vote when it
has caught up. It serves for a host that was lost and for one whose etcd data were.

It is refused without a quorum, and while the member answers: then stop it there first
(systemctl stop nodeagent-etcd) and rename its data folder aside.

It can be run on any host of the fleet that has etcd or is a control plane, and be
interrupted anywhere: the same command, there or on another host, goes on.`,
		Example: `  nodeagent etcd replace n2 --dry-run
  nodeagent etcd replace n2
  nodeagent etcd replace n2 --yes --patience 2h      the host is still being installed`,
		Args: exactlyOne("HOST"),
	}
	flags := cmd.Flags()
	dry := flags.Bool("dry-run", false, "say what comes first and change nothing")
	yes := flags.Bool("yes", false, "do not ask")
	patience := flags.Duration("patience", 30*time.Minute, "how long the host may take to start its member, and that one to catch up")
	cmd.ValidArgsFunction = upTo(1, o.completeMember)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, site, view, err := o.looked(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		step, member, err := etcdops.NextReplace(view, args[0])
		if err != nil {
			return err
		}
		steps := replaceSteps(step, member)
		if *dry && o.json() {
			return printJSON(o, map[string]any{"host": args[0], "next": step, "steps": nonNil(steps)})
		}
		if step == etcdops.ReplaceDone {
			return o.printReplaced(etcdops.Replaced{Host: args[0]})
		}
		for i, text := range steps {
			fmt.Fprintf(o.prose(), "%d. %s\n", i+1, text)
		}
		if *dry {
			return nil
		}
		if !*yes {
			if err := confirm(o, "Replace?"); err != nil {
				return err
			}
		}
		c := newChange(o)
		done, err := etcdops.Replace(cmd.Context(), site, etcdops.ReplaceOptions{Host: args[0], Patience: *patience, Peer: host.EtcdPeerTLS()}, c.told)
		c.pause()
		if err != nil {
			return err
		}
		return o.printReplaced(done)
	}
	return cmd
}

// replaceSteps are the steps from the next one on, in words.
func replaceSteps(next etcdops.ReplaceStep, m etcdops.MemberView) []string {
	all := []struct {
		step etcdops.ReplaceStep
		text string
	}{
		{etcdops.ReplaceRemove, fmt.Sprintf("make sure that %s does not answer, and remove its member %s", m.Name, m.ID)},
		{etcdops.ReplaceAdd, "make a place for a learner at its address"},
		{etcdops.ReplaceStart, fmt.Sprintf("wait until nodeagent on %s starts it", m.Name)},
		{etcdops.ReplaceCatchUp, "wait until it has caught up"},
		{etcdops.ReplacePromote, "give it its vote"},
	}
	var steps []string
	for _, s := range all {
		if s.step == next || len(steps) > 0 {
			steps = append(steps, s.text)
		}
	}
	return steps
}

func (o *options) printReplaced(done etcdops.Replaced) error {
	if o.json() {
		return printJSON(o, done)
	}
	if done.Removed == "" && done.Added == "" && done.Took == 0 {
		fmt.Fprintf(o.stdout, "%s answers, is a voting member and in step; nothing to do.\n", done.Host)
		return nil
	}
	fmt.Fprintf(o.stdout, "%s is a voting member in step; it took %s.\n", done.Host, done.Took.Round(100*time.Millisecond))
	return nil
}

func newEtcdInit(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Say that a new etcd cluster begins, where the hosts cannot agree on it",
		Long: `init is needed only where nodeagent holds etcd back. A new cluster begins by itself
when every host of the fleet that has etcd says that it holds no data; a single host
begins at once. Without arguments init tells what each host says.

With --without a person says of hosts that are not to be had that they hold no data of an
older cluster: then this one begins without them, and they join later. If one does hold
the data after all, there are two clusters.

With --again this host forgets that etcd has once run on it. Its data folder has to be
gone already; a snapshot is restored with 'nodeagent snapshot restore' instead.

In both cases nothing is done where a member of a cluster answers. nodeagent starts etcd
then, by 'nodeagent apply' or its service.`,
		Example: `  nodeagent etcd init
  nodeagent etcd init --without n3
  nodeagent etcd init --again --yes`,
		Args: noArgs,
	}
	flags := cmd.Flags()
	without := flags.StringSlice("without", nil, "`hosts` that say nothing and hold no data")
	again := flags.Bool("again", false, "forget that etcd has once run on this host")
	yes := flags.Bool("yes", false, "do not ask")
	must(cmd.RegisterFlagCompletionFunc("without", o.completeMembers))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		wait := newWaiting(o, "asking the other hosts")
		outlook, err := host.EtcdOutlook(cmd.Context())
		wait.close()
		if err != nil {
			return err
		}
		if !*again && len(*without) == 0 {
			return o.printOutlook(outlook)
		}
		if err := outlook.MayDeclare(*without, *again); err != nil {
			return err
		}
		if !*yes {
			fmt.Fprintf(o.prose(), "A new, empty etcd cluster begins on %s.\n", outlook.Host)
			if err := confirm(o, "Is there no data of an older one that counts?"); err != nil {
				return err
			}
		}
		if err := exclusively(cmd.Context(), func() error { return host.DeclareEtcd(len(*without) > 0, *again) }); err != nil {
			return err
		}
		if o.json() {
			return printJSON(o, map[string]any{"declared": true})
		}
		fmt.Fprintln(o.stdout, "Noted. `nodeagent apply`, or the service, starts etcd.")
		return nil
	}
	return cmd
}

func (o *options) printOutlook(outlook etcdops.Outlook) error {
	if o.json() {
		if err := printJSON(o, outlook); err != nil {
			return err
		}
	} else {
		out := newScreen(o.stdout)
		var rows [][]string
		if out.table {
			rows = append(rows, []string{"HOST", "SAYS", ""})
		}
		for _, a := range outlook.Others {
			rows = append(rows, []string{a.Member.Name, string(a.State), a.Meaning()})
		}
		if err := out.rows(rows); err != nil {
			return err
		}
		if outlook.Held == "" {
			fmt.Fprintf(o.stdout, "etcd on %s may start: %s.\n", outlook.Host, outlook.Begin.Meaning())
		}
	}
	if outlook.Held != "" {
		return errors.New(outlook.Held)
	}
	return nil
}
