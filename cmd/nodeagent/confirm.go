package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	attempts "github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// tryNetwork is apply --confirm: kernel and network under the clock, then the
// other domains.
func tryNetwork(cmd *cobra.Command, o *options, host *agent.Host, names []string, patience time.Duration) error {
	if patience < time.Second {
		return usageError{fmt.Errorf("--confirm %s: leave yourself at least a second", patience)}
	}
	if len(names) > 0 {
		return usageError{errors.New("--confirm and --only exclude each other: --confirm changes kernel and network alone")}
	}
	lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainKernel, agent.DomainNetwork}, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	progress := newProgress(o)
	result, until, err := host.Try(cmd.Context(), patience, progress)
	progress.close()
	if result == nil {
		return err
	}
	err = errors.Join(printResult(o, result), err)
	if !until.IsZero() {
		fmt.Fprintf(o.stderr, "The network goes back at %s unless you open a NEW connection and run there: nodeagent confirm\n", until.Format(time.TimeOnly))
	}
	return err
}

func newConfirm(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Keep a network change that apply --confirm made",
		Long: `confirm keeps what apply --confirm changed of the network. It must come over a
connection that was opened after the change: one that was open before proves nothing.`,
		Example: `  ssh host nodeagent confirm
  nodeagent confirm --local             at the host's own console`,
		Args: noArgs,
	}
	local := cmd.Flags().Bool("local", false, "you sit at the host's own console")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := openNetwork(cmd, o)
		if err != nil {
			return err
		}
		defer host.Close()
		lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainNetwork}, lockPatience)
		if err != nil {
			return err
		}
		defer lock.Release()
		session, err := attempts.Here()
		if err != nil {
			return err
		}
		if err := host.Confirm(cmd.Context(), session, *local); err != nil {
			return err
		}
		fmt.Fprintln(o.stdout, "Confirmed: the network stays as it is.")
		return nil
	}
	return cmd
}

func newRollback(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Undo a network change that awaits confirmation",
		Long: `rollback goes back to the last confirmed network at once, if a change of
apply --confirm awaits confirmation, and remembers not to try that change again.`,
		Example: `  nodeagent rollback`,
		Args: noArgs,
	}
	due := cmd.Flags().Bool("due", false, "wait until the change is due")
	must(cmd.Flags().MarkHidden("due"))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := openNetwork(cmd, o)
		if err != nil {
			return err
		}
		defer host.Close()
		reason := "somebody asked for it"
		if *due {
			reason = ""
		}
		undone, err := host.Undo(cmd.Context(), reason, plan.Silent{})
		if err != nil {
			return err
		}
		if !undone {
			fmt.Fprintln(o.stdout, "Nothing to undo.")
			return nil
		}
		fmt.Fprintln(o.stdout, "The network is as it was last confirmed.")
		return nil
	}
	return cmd
}

// openNetwork opens the host without its fleet: the way back must not depend on
// files that may be what is wrong.
func openNetwork(cmd *cobra.Command, o *options) (*agent.Host, error) {
	return agent.Open(cmd.Context(), "", &hosts.Spec{}, logger(o.stderr))
}
