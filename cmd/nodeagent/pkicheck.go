package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

func newPKICheck(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for what is missing or too wide in Vault",
		Long: `check compares Vault with the fleet and tells of every role, policy and login that lets
more pass than the fleet needs, of settings that are known traps, of CAs that end before
their next leaf would, of what the token may not do, and of a Vault without an audit
device. Then it has every certificate signed, for keys that it makes in memory and
forgets, and looks at what came back as a host would. It changes nothing.

With --as-host it looks with this host's own login instead, which sees no roles and
policies: what the host may not do, its CAs, and its own certificates.

It answers 1 when it finds an error or a warning.

` + vaultHelp,
		Example: `  nodeagent pki check
  nodeagent pki check --as-host
  nodeagent pki check -o json | jq '.findings[] | select(.severity == "error")'`,
		Args: noArgs,
	}
	asHost := cmd.Flags().Bool("as-host", false, "look with this host's own login")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		look := o.checkAsAdministrator
		if *asHost {
			look = o.checkAsHost
		}
		findings, err := look(cmd)
		if err != nil {
			return vaultHint(err)
		}
		findings = append(findings, o.leftKeys()...)
		if err := printFindings(o, findings); err != nil {
			return err
		}
		grave := 0
		for _, f := range findings {
			if f.Severity != vault.SeverityAdvice {
				grave++
			}
		}
		if grave > 0 {
			return fmt.Errorf("the check of Vault has %s", plan.Count(grave, "finding"))
		}
		return nil
	}
	return cmd
}

func (o *options) checkAsAdministrator(cmd *cobra.Command) ([]vault.Finding, error) {
	fleet, err := o.vaultFleet()
	if err != nil {
		return nil, err
	}
	client, err := vault.NewClient(fleet.Hosts[0].PKI.Vault)
	if err != nil {
		return nil, withHint(err, "--as-host looks with this host's own login")
	}
	return vault.Check(cmd.Context(), client, fleet, time.Now())
}

func (o *options) checkAsHost(cmd *cobra.Command) ([]vault.Finding, error) {
	if _, err := o.vaultFleet(); err != nil {
		return nil, err
	}
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	if len(spec.Roles) == 0 {
		return nil, errors.New("host " + spec.Name + " has no role, so it needs nothing of Vault")
	}
	issuer := vault.New(spec, "", logger(o.stderr))
	defer issuer.Close(cmd.Context())
	return issuer.Check(cmd.Context(), spec, time.Now())
}

// leftKeys tells of CA keys that the local issuer has left on this host.
func (o *options) leftKeys() []vault.Finding {
	var names []string
	for _, l := range pki.LeftAuthorities(layout.Root("")) {
		names = append(names, l.Name)
	}
	if len(names) == 0 {
		return nil
	}
	return []vault.Finding{{
		Severity: vault.SeverityWarning, Where: "this host",
		What:   "CA keys of the local issuer still lie here (" + strings.Join(names, ", ") + "): who has them can sign for whoever trusts them",
		Remedy: "change these CAs (nodeagent certs rotate-ca NAME), then run nodeagent pki forget-local",
	}}
}

func printFindings(o *options, findings []vault.Finding) error {
	if o.json() {
		return printJSON(o, map[string]any{"findings": nonNil(findings)})
	}
	if len(findings) == 0 {
		_, err := fmt.Fprintln(o.stdout, "Nothing found: Vault is as the fleet needs it, and signs every certificate.")
		return err
	}
	out := newScreen(o.stdout)
	for _, f := range findings {
		word := f.Severity
		if f.Severity == vault.SeverityError {
			word = out.bad(word)
		}
		fmt.Fprintf(out.w, "%s: %s: %s\n", word, f.Where, f.What)
		if f.Remedy != "" {
			fmt.Fprintf(out.w, "    %s\n", f.Remedy)
		}
	}
	return nil
}
