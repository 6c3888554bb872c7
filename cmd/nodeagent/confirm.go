package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	attempts "github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// leastConfirm is what a connection, a command, and going back need.
const leastConfirm = 3 * time.Second

// caution is how apply guards a change of the network.
type caution struct {
	// confirm is the time after which the host can be reached as before, a person
	// having a little less; valid where asked is true.
	confirm  time.Duration
	asked    bool
	noProbes bool
}

func cautionFlags(cmd *cobra.Command) *caution {
	c := &caution{}
	cmd.Flags().DurationVar(&c.confirm, "confirm", 0, "undo the change of the network unless it is confirmed; the host can be reached as before after this `time`")
	cmd.Flags().BoolVar(&c.noProbes, "no-probes", false, "do not let the spec's probes judge the change of the network")
	return c
}

// check refuses what cannot be meant.
func (c *caution) check(cmd *cobra.Command, names []string) error {
	c.asked = cmd.Flags().Changed("confirm")
	if !c.asked {
		return nil
	}
	if c.confirm < leastConfirm {
		return usageError{fmt.Errorf("--confirm %s: leave yourself at least %s", c.confirm, leastConfirm)}
	}
	if len(names) > 0 && !slices.Contains(names, agent.DomainNetwork) {
		return usageError{errors.New("--confirm is about the network, which --only leaves out")}
	}
	return nil
}

// tries tells whether the network is changed on trial.
func (c *caution) tries(host *agent.Host, names []string) bool {
	if len(names) > 0 && !slices.Contains(names, agent.DomainNetwork) {
		return false
	}
	return c.asked || host.HasProbes() && !c.noProbes
}

// tryNetwork makes kernel and network on trial, and then the other domains,
// unless a person is still to confirm the network. The caller holds the lock.
func (c *caution) tryNetwork(ctx context.Context, o *options, host *agent.Host, names []string) error {
	if len(names) == 0 {
		names = agent.DomainNames()
	}
	first := func(name string) bool { return name == agent.DomainKernel || name == agent.DomainNetwork }
	rest := slices.DeleteFunc(slices.Clone(names), first)
	progress := newProgress(o)
	trial, err := host.Try(ctx, agent.Terms{
		Domains:  slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !first(name) }),
		Patience: c.confirm, NoProbes: c.noProbes,
	}, progress)
	progress.close()
	if trial.Result == nil {
		return err
	}
	for _, v := range trial.Verdicts {
		fmt.Fprintf(o.stderr, "probe %s\n", v)
	}
	if err == nil && trial.Undone == "" && trial.Until.IsZero() && len(rest) > 0 {
		progress := newProgress(o)
		var more agent.Result
		more, err = host.Apply(ctx, rest, progress)
		progress.close()
		trial.Result = append(trial.Result, more...)
	}
	err = errors.Join(printResult(o, trial), err)
	if !trial.Until.IsZero() {
		sayUntil(o, trial, rest)
	}
	return err
}

func sayUntil(o *options, trial agent.Trial, rest []string) {
	fmt.Fprintf(o.stderr, "The network goes back at %s, and the host can be reached as before by %s, unless you open a NEW connection and run there: nodeagent confirm\n",
		trial.Until.Format(time.TimeOnly), trial.Reachable.Format(time.TimeOnly))
	if len(rest) > 0 {
		fmt.Fprintln(o.stderr, "Certificates and components follow once it is confirmed: nodeagent.service makes them, or nodeagent apply.")
	}
}

func newConfirm(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Keep a network change that apply --confirm made",
		Long: `confirm keeps what apply --confirm changed of the network. It proves that the host
can still be reached, and so it must come over an SSH connection that was opened after
the change, from another machine. Refused are: a session that was open before the
change; a new session that is multiplexed over an old connection (ControlMaster: use
ssh -S none); tmux and screen, whose connection cannot be told; a connection from the
host to itself. At the host's own console (no SSH) say --local: then nothing is proved,
and you vouch for it.`,
		Example: `  ssh host nodeagent confirm
  ssh -S none host sudo nodeagent confirm
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
apply --confirm awaits confirmation, looks again whether the network is exactly as it
was, and remembers not to try that change again by itself. Network settings and the
sysctls of the network go back; kernel modules that were loaded stay loaded.`,
		Example: `  nodeagent rollback`,
		Args:    noArgs,
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
