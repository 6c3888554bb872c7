package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
)

// endRestore ends a restore that was interrupted, the way that somebody has chosen.
func endRestore(cmd *cobra.Command, o *options, host *agent.Host, r *restoring) error {
	how := etcdops.EndForward
	if r.abort {
		how = etcdops.EndBack
	}
	lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainUnits}, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	steps := newSteps(o)
	outcome, err := host.EndRestore(cmd.Context(), how, r.choices.OpenOptions, steps.report)
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
		fmt.Fprintln(o.stdout, "The interrupted restore is complete: its data is live.")
	case etcdops.OutcomeUndone:
		fmt.Fprintln(o.stdout, "The interrupted restore is undone: everything is as before it.")
	}
	return nil
}
