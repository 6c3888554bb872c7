package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

// drillMemory is how much memory a drill's own process may use before it collects
// its garbage all the time.
const drillMemory = 256 << 20

func newSnapshotDrill(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill [FILE|PLACE:NAME]",
		Short: "Restore the newest snapshot where it disturbs nobody, to know that it restores",
		Long: `drill verifies a snapshot, restores it into a scratch folder and boots an etcd of the
host's version on that, which listens on a unix socket alone, in a network namespace
without any interface. It compares its revision, the hash of its keys and their number
by resource with what is in the snapshot, and decodes some objects of each resource;
those that are encrypted at rest where this host has the key.

It measures each step and records how old the snapshot was (what would have been lost)
and how long it took until an etcd served it, which 'nodeagent status' and the metrics
show. Everything is removed afterwards; of a drill that was killed by the next one.

It uses what CPU and disk nobody else wants. With --full-speed it takes as much as a
restore does, and the times are those of a restore. It is refused where less than a
tenth of the disk (--reserve) would stay free, or memory is short. 'nodeagent run' makes drills at the
moments of snapshots.drill of the spec.`,
		Example: `  nodeagent snapshot drill
  nodeagent snapshot drill /var/lib/nodeagent/snapshots/mercury-mercury-20260101T000000Z.db.zst
  nodeagent snapshot drill offsite:latest
  nodeagent snapshot drill --full-speed -o json | jq .rtoSeconds`,
		Args: atMostOne("FILE"), ValidArgsFunction: upTo(1, o.completeSnapshot),
	}
	full := cmd.Flags().Bool("full-speed", false, "take as much CPU and disk as a restore does")
	reserve := cmd.Flags().Int("reserve", 10, "how many `percent` of the scratch folder's file system stay free at least; with less than 10, kubelets evict pods")
	flags := openingFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *reserve < 1 || *reserve > 99 {
			return usageError{fmt.Errorf("--reserve %d: it is from 1 to 99", *reserve)}
		}
		if !*full {
			debug.SetMemoryLimit(drillMemory)
			if err := etcdops.LowerProcess(); err != nil {
				return err
			}
		}
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		choices := agent.DrillChoices{Low: !*full, Reserve: *reserve}
		if len(args) == 1 {
			choices.Snapshot = args[0]
		}
		if choices.VerifyOptions, err = flags.options(cmd, o); err != nil {
			return err
		}
		bar := newBar(o, "reading")
		choices.Progress = bar.set
		choices.Step = func(step string) {
			bar.close()
			fmt.Fprintf(o.stderr, "  %-8s %s\n", step, drillSteps[step])
		}
		report, err := host.DrillSnapshot(cmd.Context(), choices)
		bar.close()
		if errors.Is(err, etcdops.ErrBusy) {
			return withHint(err, "another drill runs on this host: `nodeagent status` shows it")
		}
		if o.json() && !report.Began.IsZero() {
			return errors.Join(printJSON(o, report), err) // what failed is in it, too
		}
		if err != nil {
			return err
		}
		printDrill(o, report)
		return nil
	}
	return cmd
}

// drillSteps says in words what happens in each step.
var drillSteps = map[string]string{
	etcdops.DrillPrepare: "removing what an earlier drill left",
	etcdops.DrillFetch:   "fetching the snapshot",
	etcdops.DrillVerify:  "reading all of it",
	etcdops.DrillStage:   "restoring it into a scratch folder",
	etcdops.DrillBoot:    "booting an etcd on that",
	etcdops.DrillCompare: "comparing what it serves, and decoding objects",
}

func printDrill(o *options, r etcdops.DrillReport) {
	fmt.Fprintf(o.stdout, "%s restores: etcd %s serves revision %d with %d keys, whose hash %08x is that of the snapshot.\n",
		r.Snapshot, r.EtcdVersion, r.Revision, r.Keys, r.KVHash.Hash)
	objects := fmt.Sprintf("Objects of %d resources are all there; %d were decoded", r.Objects.Resources, r.Objects.Decoded)
	if r.Objects.Opened > 0 {
		objects += fmt.Sprintf(", of them %d that are encrypted at rest", r.Objects.Opened)
	}
	if r.Objects.Closed > 0 {
		objects += fmt.Sprintf("; %d are encrypted with a key that this host does not have", r.Objects.Closed)
	}
	fmt.Fprintln(o.stdout, objects+".")
	if !r.Taken.IsZero() {
		fmt.Fprintf(o.stdout, "RPO  %s: what was written since the snapshot would be lost", span(r.RPOSeconds))
		if r.WorstRPOSeconds > 0 {
			fmt.Fprintf(o.stdout, "; at worst, by the schedule, %s", span(r.WorstRPOSeconds))
		}
		fmt.Fprintln(o.stdout, ".")
	}
	s := r.Seconds
	fmt.Fprintf(o.stdout, "RTO  %s: fetch %s, verify %s, restore %s, boot %s. Comparing took %s.\n",
		span(s.RTO()), span(s.Fetch), span(s.Verify), span(s.Stage), span(s.Boot), span(s.Compare))
}

// span prints seconds for people: "0.42s", "3m 5s".
func span(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.2fs", seconds)
	}
	return age(time.Duration(seconds * float64(time.Second)))
}
