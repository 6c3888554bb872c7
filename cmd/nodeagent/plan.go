package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// shownLines is how much of a file a plan shows without --full.
const shownLines = 6

func newPlan(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what would change on this host",
		Long: `plan compares this host with its spec and prints the difference: for each change
what it does, what it disturbs (quiet, reload, restart, disconnect, quorum), why, and
the values before and after. It writes nothing and works on a host that is half
broken: what could not be observed is said, and answers exit code 1.

Below the plan it warns of ways that its changes of the network would certainly cut:
that of your SSH session, those to Vault, to the API endpoint, to and from the other
etcd members, and WireGuard's own. 'nodeagent apply' refuses such a plan.`,
		Example: `  nodeagent plan
  nodeagent plan --only kernel,network --full
  nodeagent plan --exit-code -o json | jq '.changes[].key'`,
		Args: noArgs,
	}
	names := only(cmd)
	full := cmd.Flags().Bool("full", false, "show every line of files")
	exitCode := cmd.Flags().Bool("exit-code", false, "exit with 2 when there are changes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		domains, err := pick(host, *names)
		if err != nil {
			return err
		}
		p, observeErr := agent.Plan(cmd.Context(), domains)
		p.Warnings = host.Warnings(cmd.Context(), p, domains, os.Getenv("SSH_CONNECTION"))
		if err := errors.Join(printPlan(o, p, *full), observeErr); err != nil {
			return err
		}
		if len(*names) == 0 || slices.Contains(*names, agent.DomainNetwork) {
			for _, warning := range host.NetworkWarnings(cmd.Context()) {
				fmt.Fprintf(o.stderr, "warning: %s\n", warning)
			}
		}
		if *exitCode && !p.Empty() {
			return errChanges
		}
		return nil
	}
	return cmd
}

func printPlan(o *options, p plan.Plan, full bool) error {
	if o.json() {
		return plan.WriteJSON(o.stdout, p)
	}
	style := plan.Style{Color: colored(o.stdout), MaxLines: shownLines}
	if full {
		style.MaxLines = 0
	}
	return style.Write(o.stdout, p)
}
