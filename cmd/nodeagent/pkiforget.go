package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

func newPKIForget(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget-local",
		Short: "Remove the CA keys that the local issuer has left on this host",
		Long: `forget-local removes, for ever, the CAs of the local issuer from a host that was moved to
Vault. A CA goes only when nothing trusts it any more: neither Vault's bundle of that CA,
which is asked for now, nor this host's, and no certificate in use is signed by it. Before
that, change it for one whose key no host has ever had ('nodeagent certs rotate-ca NAME').
What has to stay is told with the reason, and the exit code is then 1.

With --plan it only shows what would go.`,
		Example: `  nodeagent pki forget-local --plan
  nodeagent pki forget-local`,
		Args: noArgs,
	}
	f := forgetting{options: o}
	cmd.Flags().BoolVar(&f.plan, "plan", false, "only show what would be removed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }
	return cmd
}

// forgetting is one run of the command.
type forgetting struct {
	*options
	plan bool
}

// forgotten is the JSON form of what was done.
type forgotten struct {
	Removed []string `json:"removed"`
	Kept    []string `json:"kept"` // with the reasons
}

func (f forgetting) run(cmd *cobra.Command) error {
	spec, err := f.spec()
	if err != nil {
		return err
	}
	if spec.PKI.Issuer != pki.IssuerVault {
		return fmt.Errorf("the issuer of cluster %s is %q: the CAs on this host are in use", spec.Cluster, spec.PKI.Issuer)
	}
	lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainPKI}, lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	root := layout.Root("")
	issuer := vault.New(spec, root, logger(f.stderr))
	defer issuer.Close(cmd.Context())
	left := pki.LeftAuthorities(root)
	vouched, err := issuer.Vouched(cmd.Context(), left)
	if err != nil {
		return err
	}
	have, err := pki.Observe(cmd.Context(), root)
	if err != nil {
		return err
	}
	changes, kept := pki.Forget(left, have, pki.Want(spec), vouched)
	if f.plan {
		return f.print(changes, kept)
	}
	progress := newProgress(f.options)
	err = (&pki.Applier{Root: root}).Apply(cmd.Context(), changes, progress)
	progress.close()
	if err != nil {
		return err
	}
	return f.report(changes, kept)
}

func (f forgetting) print(changes []plan.Change, kept []string) error {
	p := plan.Plan{Changes: changes, Warnings: kept}
	if f.json() {
		return plan.WriteJSON(f.stdout, p)
	}
	style := plan.Style{Color: colored(f.stdout), MaxLines: shownLines, Nothing: "nothing of the local issuer may go, or nothing is left of it"}
	return style.Write(f.stdout, p)
}

func (f forgetting) report(changes []plan.Change, kept []string) error {
	done := forgotten{Removed: []string{}, Kept: nonNil(kept)}
	for _, c := range changes {
		done.Removed = append(done.Removed, c.Key)
	}
	switch {
	case f.json():
		if err := printJSON(f.options, done); err != nil {
			return err
		}
	case len(changes)+len(kept) == 0:
		fmt.Fprintln(f.stdout, "Nothing to do: the local issuer has left no CA on this host.")
	case len(changes) > 0:
		fmt.Fprintf(f.stdout, "Removed for ever: %s.\n", strings.Join(done.Removed, ", "))
	}
	if len(kept) > 0 {
		return errors.New(strings.Join(kept, "\n"))
	}
	return nil
}
