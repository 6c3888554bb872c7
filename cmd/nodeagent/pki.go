package main

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// vaultHelp is what the help of all commands for administrators says.
const vaultHelp = `An administrator is known by VAULT_TOKEN, or by what 'vault login' left. Address and CA
of Vault are the fleet's unless VAULT_ADDR and VAULT_CACERT name others.`

func newPKI(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Prepare Vault for a cluster, check it, and let hosts in",
		Long: `pki is for the administrator of a cluster whose issuer is Vault. bootstrap makes all
that the cluster needs there, check looks for what is missing or too wide, token lets a
new host in, forget-local ends a move from the local issuer.

` + vaultHelp,
		Example: `  nodeagent pki bootstrap --plan        what would be made in Vault
  nodeagent pki bootstrap
  nodeagent pki check
  nodeagent pki token n1                the first login of host n1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPKIBootstrap(o), newPKICheck(o), newPKIToken(o), newPKIForget(o))
	return cmd
}

// vaultFleet loads the fleet, whose issuer must be Vault.
func (o *options) vaultFleet() (*hosts.Fleet, error) {
	fleet, err := o.load()
	if err != nil {
		return nil, err
	}
	for _, w := range fleet.Warnings {
		fmt.Fprintf(o.stderr, "warning: %s\n", w)
	}
	if len(fleet.Hosts) > 0 && fleet.Hosts[0].PKI.Issuer != pki.IssuerVault {
		return nil, withHint(fmt.Errorf("the issuer of cluster %s is %q, not %q", fleet.Hosts[0].Cluster, fleet.Hosts[0].PKI.Issuer, pki.IssuerVault),
			`set pki.issuer = "vault" and pki.vault.address in cluster.toml`)
	}
	return fleet, nil
}

// vaultHint adds what to do to an error of Vault's that says too little.
func vaultHint(err error) error {
	var answer *api.ResponseError
	if errors.As(err, &answer) && answer.StatusCode == http.StatusForbidden {
		return withHint(err, "'nodeagent pki bootstrap --print-policy' prints what the token must be allowed to do")
	}
	return err
}

func newPKIToken(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token HOST",
		Short: "Make an enrolment token for a host",
		Long: `token makes what 'nodeagent enroll' takes on a new host: the host's first login, wrapped
in a token that is good for one use and a short time. It prints the token alone on
standard output. Who uses it first has the host's login, and a second use is refused:
when the host says that its token was used before, treat the host's login as stolen and
run this again.

` + vaultHelp,
		Example: `  nodeagent pki token n1
  nodeagent pki token n1 --ttl 2h > n1.token
  nodeagent pki token n1 | ssh root@n1 nodeagent enroll -`,
		Args:              exactlyOne("HOST"),
		ValidArgsFunction: upTo(1, o.completeHost),
	}
	ttl := cmd.Flags().Duration("ttl", 30*time.Minute, "for how long the token is good")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		fleet, err := o.vaultFleet()
		if err != nil {
			return err
		}
		spec, err := fleet.Host(args[0])
		if err != nil {
			return err
		}
		client, err := vault.NewClient(spec.PKI.Vault)
		if err != nil {
			return err
		}
		enrolment, err := vault.MintEnrolment(cmd.Context(), client, spec, *ttl)
		if err != nil {
			return vaultHint(err)
		}
		if o.json() {
			return printJSON(o, enrolment)
		}
		fmt.Fprintf(o.stderr, "For host %s, good for one use until %s. On the host:\n  nodeagent enroll\n", spec.Name, enrolment.Expires.Format(time.RFC3339))
		_, err = fmt.Fprintln(o.stdout, enrolment.Token)
		return err
	}
	return cmd
}
