package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

func newSnapshotRestore(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put this host's etcd back to a snapshot",
		Long: `restore verifies the snapshot, prints every step, and asks. It then builds the new
data folder beside the live one, stops kube-apiserver and etcd, exchanges the folders,
starts etcd, proves its revision and keys, and starts the rest again. The old data
folder is kept. When etcd does not prove itself, the old data goes back by itself.

The revision is raised by a billion and everything before it marked as compacted, so
that no watch or cache of a client takes the past for the present.

A restore that was interrupted is ended by the next 'nodeagent run', or by
'nodeagent snapshot restore --resume'.`,
		Example: `  nodeagent snapshot list
  nodeagent snapshot restore /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot restore backup.db --dry-run
  nodeagent snapshot restore backup.db --yes -o json`,
	}
	choices := agent.RestoreChoices{}
	flags := cmd.Flags()
	yes := flags.Bool("yes", false, "do not ask")
	dryRun := flags.Bool("dry-run", false, "print the steps and change nothing")
	resume := flags.Bool("resume", false, "end a restore that was interrupted")
	flags.BoolVar(&choices.OtherCluster, "other-cluster", false, "accept a snapshot of a cluster of another name")
	flags.BoolVar(&choices.KeepRevision, "keep-revision", false, "do not raise the revision: clients that have seen later ones are confused")
	flags.StringVar(&choices.Token, "token", "", "the new cluster's `token`; all members need the same (default: a fresh one)")
	opening := openingFlags(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if *resume && len(args) == 0 {
			return nil
		}
		return exactlyOne("FILE")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		if *resume {
			return resumeRestore(cmd, o, host)
		}
		choices.Snapshot = args[0]
		if choices.VerifyOptions, err = opening.options(cmd, o); err != nil {
			return err
		}
		bar := newBar(o, "verifying")
		choices.Progress = bar.set
		plan, err := host.PlanRestore(cmd.Context(), choices)
		bar.close()
		if errors.Is(err, etcdops.ErrRestoreInterrupted) {
			return withHint(err, "`nodeagent snapshot restore --resume` ends it")
		}
		if err != nil {
			return err
		}
		return restore(cmd, o, host, plan, *dryRun, *yes)
	}
	return cmd
}

func restore(cmd *cobra.Command, o *options, host *agent.Host, plan etcdops.RestorePlan, dryRun, yes bool) error {
	if dryRun && o.json() {
		return printJSON(o, plan)
	}
	out := o.stdout
	if o.json() {
		out = o.stderr
	}
	if err := plan.WriteText(out); err != nil {
		return err
	}
	if dryRun {
		return nil
	}
	if !yes {
		if err := confirm(o, "Restore?"); err != nil {
			return err
		}
	}
	lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainUnits}, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	steps := newSteps(o)
	result, err := host.Restore(cmd.Context(), plan, steps.report)
	steps.close()
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o, result)
	}
	fmt.Fprintf(o.stdout, "Restored in %s: etcd answers with revision %d and %d keys.\n",
		result.Took.Round(100*time.Millisecond), result.Revision, result.Keys)
	if result.KeptOld != "" {
		fmt.Fprintf(o.stdout, "The old data is kept in %s; delete it when you no longer need it.\n", result.KeptOld)
	}
	return nil
}

func resumeRestore(cmd *cobra.Command, o *options, host *agent.Host) error {
	lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainUnits}, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	steps := newSteps(o)
	outcome, err := host.ResumeRestore(cmd.Context(), steps.report)
	steps.close()
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o, map[string]any{"outcome": outcome})
	}
	switch outcome {
	case etcdops.OutcomeNone:
		fmt.Fprintln(o.stdout, "No restore was interrupted; nothing to do.")
	case etcdops.OutcomeCompleted:
		fmt.Fprintln(o.stdout, "The interrupted restore is complete: the restored data is live.")
	case etcdops.OutcomeUndone:
		fmt.Fprintln(o.stdout, "The interrupted restore is undone: everything is as before it.")
	}
	return nil
}

// confirm asks on the terminal. Without one it refuses, for nobody can answer.
func confirm(o *options, question string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return withHint(errors.New("not confirmed, nothing was done: standard input is no terminal"), "--yes confirms")
	}
	fmt.Fprintf(o.stderr, "%s Type yes: ", question)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("not confirmed, nothing was done")
	}
	return nil
}

// steps prints what a restore tells: one line a step, and a bar while bytes move.
type steps struct {
	o   *options
	bar *bar
}

func newSteps(o *options) *steps { return &steps{o: o, bar: newBar(o, "staging")} }

func (s *steps) report(e etcdops.Event) {
	if e.Text == "" {
		s.bar.set(e.Done, e.Total)
		return
	}
	s.bar.close()
	fmt.Fprintf(s.o.stderr, "  %-8s %s\n", e.Step, e.Text)
}

func (s *steps) close() { s.bar.close() }
