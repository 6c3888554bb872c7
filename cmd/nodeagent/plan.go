package main

import (
	"encoding/json"
	"errors"
	"fmt"
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
etcd members, and WireGuard's own. 'nodeagent apply' refuses such a plan.

With --foreign it also lists what others made on the host's network: links, addresses,
routes, policy rules and packet filters. nodeagent never touches them. To take one over,
write it into the spec with adopt = true.`,
		Example: `  nodeagent plan
  nodeagent plan --only kernel,network --full
  nodeagent plan --foreign
  nodeagent plan --exit-code -o json | jq '.changes[].key'`,
		Args: noArgs,
	}
	names := only(cmd)
	foreign := cmd.Flags().Bool("foreign", false, "also list what others made, which is never touched")
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
		p.Warnings = host.Warnings(cmd.Context(), p, domains, sshSession())
		var others []agent.Foreign
		if *foreign {
			var err error
			others, err = host.Foreign(cmd.Context())
			observeErr = errors.Join(observeErr, err)
			if others == nil {
				others = []agent.Foreign{}
			}
		}
		if err := errors.Join(printPlan(o, p, *full, others), observeErr); err != nil {
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

// printPlan prints the plan and, unless foreign is nil, what others made.
func printPlan(o *options, p plan.Plan, full bool, foreign []agent.Foreign) error {
	if o.json() {
		if foreign == nil {
			return plan.WriteJSON(o.stdout, p)
		}
		return printForeignJSON(o, p, foreign)
	}
	style := plan.Style{Color: colored(o.stdout), MaxLines: shownLines}
	if full {
		style.MaxLines = 0
	}
	if err := style.Write(o.stdout, p); err != nil || foreign == nil {
		return err
	}
	return printForeign(newScreen(o.stdout), foreign)
}

func printForeignJSON(o *options, p plan.Plan, foreign []agent.Foreign) error {
	if p.Changes == nil {
		p.Changes = []plan.Change{}
	}
	enc := json.NewEncoder(o.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		plan.Plan
		Foreign []agent.Foreign `json:"foreign"`
	}{p, foreign})
}

func printForeign(s screen, foreign []agent.Foreign) error {
	if len(foreign) == 0 {
		_, err := fmt.Fprintln(s.w, "\nNothing foreign: all of the network is the kernel's own, nodeagent's, or named by the spec.")
		return err
	}
	rows := make([][]string, 0, len(foreign))
	for _, f := range foreign {
		rows = append(rows, []string{f.Kind, f.Name, f.Detail, "by " + f.By})
	}
	if err := s.section("foreign", rows); err != nil || !s.table {
		return err
	}
	_, err := fmt.Fprintf(s.w, "\n%s that others made. nodeagent never touches them; to take one over, write it into\nthe spec with adopt = true.\n", plan.Count(len(foreign), "object"))
	return err
}
