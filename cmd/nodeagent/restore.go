package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

// restoring are the flags of a restore.
type restoring struct {
	choices       agent.RestoreChoices
	plan, planOut string
	given         string // the snapshot as somebody named it
	yes, dryRun   bool
	resume, abort bool
	opening       opening
}

func newSnapshotRestore(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE|PLACE:NAME",
		Short: "Put this host's etcd, or the whole cluster's, back to a snapshot",
		Long: `restore verifies the snapshot, prints every step, and asks. It then builds the new
data folder beside the live one, stops kube-apiserver and etcd, exchanges the folders,
starts etcd, proves its cluster, revision and keys, and starts the rest again. The old
data folder is kept ('snapshot undo' brings it back). When etcd does not prove itself,
the old data goes back by itself.

Of a cluster with several members all are restored: stop nodeagent and etcd on every
host, then run the same command with the same snapshot on each, at once or within --wait.
What all have to share (the snapshot, the members, the new cluster's token) has a short
digest that every host prints; --digest refuses another one. The token is derived from
them, so the hosts agree without a file; where a host says that its token is spent, take
the next --attempt on all. --plan-out writes all of it into a file, for --plan.

It is refused while another etcd could serve beside: a host whose etcd answers has to be
stopped; of one that cannot be reached somebody has to say that it is off (--fenced). A
host that is restored with the same plan already is in nobody's way.

The revision is raised by a billion and everything before it marked as compacted, so
that no watch or cache of a client takes the past for the present.

A restore that was interrupted is ended by the next 'nodeagent run' in the safe way, or
at once by --resume (go on from where it was) or --abort (everything as it was before).`,
		Example: `  nodeagent snapshot list
  nodeagent snapshot restore /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot restore backup.db --dry-run
  nodeagent snapshot restore offsite:latest                             of a further place (snapshots.copies)
  nodeagent snapshot restore backup.db --digest 3f9c-a1b2-77d0 --yes     on each host of a fleet
  nodeagent snapshot restore backup.db --fenced n3                      n3 is dead and switched off
  nodeagent snapshot restore backup.db --plan-out plan.json             write the plan, restore nothing
  nodeagent snapshot restore --plan plan.json backup.db                 exactly that, or nothing
  nodeagent snapshot restore --abort`,
	}
	cmd.ValidArgsFunction = upTo(1, o.completeSnapshot)
	r := &restoring{}
	r.addFlags(cmd, o)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if r.resume || r.abort || r.plan != "" {
			return atMostOne("FILE")(cmd, args)
		}
		return exactlyOne("FILE")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		if r.choices.VerifyOptions, err = r.opening.options(cmd, o); err != nil {
			return err
		}
		if r.resume || r.abort {
			return endRestore(cmd, o, host, r)
		}
		if err := r.choose(args); err != nil {
			return err
		}
		file, done, err := o.snapshotFile(cmd, r.choices.Snapshot)
		if err != nil {
			return err
		}
		defer done()
		r.choices.Snapshot = file
		if r.planOut != "" {
			return writePlan(cmd, o, host, r)
		}
		bar := newBar(o, "verifying")
		r.choices.Progress = bar.set
		plan, err := host.PlanRestore(cmd.Context(), r.choices)
		bar.close()
		if err != nil {
			return restoreHint(err)
		}
		defer plan.Close()
		return restore(cmd, o, host, plan, r.dryRun, r.yes)
	}
	return cmd
}

func (r *restoring) addFlags(cmd *cobra.Command, o *options) {
	flags := cmd.Flags()
	flags.BoolVar(&r.yes, "yes", false, "do not ask")
	flags.BoolVar(&r.dryRun, "dry-run", false, "print the steps and change nothing")
	flags.BoolVar(&r.resume, "resume", false, "go on with a restore that was interrupted")
	flags.BoolVar(&r.abort, "abort", false, "undo a restore that was interrupted")
	flags.BoolVar(&r.choices.OtherCluster, "other-cluster", false, "accept a snapshot of another cluster")
	flags.BoolVar(&r.choices.KeepRevision, "keep-revision", false, "do not raise the revision: clients that have seen later ones are confused")
	flags.StringVar(&r.choices.Token, "token", "", "the new cluster's `token`; all members need the same (default: derived from what is restored)")
	flags.IntVar(&r.choices.Attempt, "attempt", 0, "the `number` of this try to restore the same snapshot on the same fleet, the same on every host (default: 1)")
	flags.StringVar(&r.choices.Digest, "digest", "", "restore only if the plan has this `digest`")
	flags.StringVar(&r.plan, "plan", "", "restore what the plan in this `file` says, or nothing")
	flags.StringVar(&r.planOut, "plan-out", "", "write the plan for all hosts into this `file`, and restore nothing")
	flags.StringSliceVar(&r.choices.Fenced, "fenced", nil, "other etcd `hosts` that cannot be reached and of which you know that their etcd is off, and stays so")
	flags.BoolVar(&r.choices.RepairSpace, "repair-space", false, "deal with a snapshot's alarm NOSPACE: compact, defragment, switch it off")
	flags.BoolVar(&r.choices.UnreadableSecrets, "unreadable-secrets", false, "restore although the key of the encrypted Secrets is missing")
	flags.BoolVar(&r.choices.Trial, "trial", false, "boot a copy of the restored data once, out of everybody's reach, before anything is stopped")
	flags.DurationVar(&r.choices.Wait, "wait", 0, "how long etcd may take to prove itself, the other hosts' restores included (default: 3m alone, 30m in a fleet)")
	must(cmd.RegisterFlagCompletionFunc("fenced", o.completeMembers))
	must(cmd.MarkFlagFilename("plan"))
	must(cmd.MarkFlagFilename("plan-out"))
	r.opening = openingFlags(cmd)
	for _, other := range []string{"token", "attempt", "keep-revision", "plan-out"} {
		cmd.MarkFlagsMutuallyExclusive("plan", other)
	}
	cmd.MarkFlagsMutuallyExclusive("token", "attempt")
	cmd.MarkFlagsMutuallyExclusive("resume", "abort")
}

// choose reads the plan of another host, which also says where the snapshot was
// there.
func (r *restoring) choose(args []string) error {
	if len(args) == 1 {
		r.choices.Snapshot, r.given = args[0], args[0]
		if path, err := filepath.Abs(args[0]); err == nil && exists(path) {
			r.given = path
		}
	}
	if r.plan == "" {
		return nil
	}
	agreed, err := etcdops.ReadAgreement(r.plan)
	if err != nil {
		return err
	}
	r.choices.Agreed = &agreed
	if r.choices.Snapshot == "" {
		r.choices.Snapshot = agreed.Snapshot.Path
	}
	return nil
}

func restoreHint(err error) error {
	if errors.Is(err, etcdops.ErrRestoreInterrupted) {
		return withHint(err, "`nodeagent snapshot restore --resume` goes on with it, `nodeagent snapshot restore --abort` undoes it")
	}
	return err
}

// writePlan writes what all hosts have to share.
func writePlan(cmd *cobra.Command, o *options, host *agent.Host, r *restoring) error {
	bar := newBar(o, "verifying")
	r.choices.Progress = bar.set
	agreed, err := host.PlanAgreement(cmd.Context(), r.choices)
	bar.close()
	if err != nil {
		return err
	}
	agreed.Snapshot.Path = r.given // on another host it is fetched from there as well
	if err := etcdops.WriteAgreement(r.planOut, agreed); err != nil {
		return err
	}
	if o.json() {
		return printJSON(o, agreed)
	}
	fmt.Fprintf(o.stdout, "Wrote %s: plan %s, revision %d, %d keys, members %d; nothing was restored.\n",
		r.planOut, agreed.Digest, agreed.Snapshot.Revision, agreed.Snapshot.Keys, len(agreed.Members))
	fmt.Fprintf(o.stdout, "On each host, with etcd stopped on all: nodeagent snapshot restore --plan %s FILE\n", filepath.Base(r.planOut))
	return nil
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
		question := "Restore?"
		if plan.Undo {
			question = "Bring this data back?"
		}
		if err := confirm(o, question); err != nil {
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
	verb := "Restored"
	if plan.Undo {
		verb = "Brought back"
	}
	fmt.Fprintf(o.stdout, "%s in %s: etcd answers with revision %d and %d keys.\n",
		verb, result.Took.Round(100*time.Millisecond), result.Revision, result.Keys)
	if result.KeptOld != "" {
		fmt.Fprintf(o.stdout, "What was there before is kept in %s (`nodeagent snapshot undo` brings it back); delete it when you no longer need it.\n", result.KeptOld)
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
