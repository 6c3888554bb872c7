package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

func newPKIBootstrap(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Make in Vault what the cluster needs",
		Long: `bootstrap compares Vault with the fleet and makes the difference: an engine for each
CA, a role for each certificate of each host that pins its names, addresses, usage and
lifetime, a policy for each host, the auth methods, and the place of the secrets that
control planes share. Run it again after each change of the fleet: it does nothing where
nothing differs, puts right what was changed by hand, and removes the roles, policies and
logins of hosts that left. CAs and their keys are made once and never replaced or
removed; what others made below the cluster's place is listed and left alone.

With --plan it only shows the difference. --print-policy prints the policies, first that
of your own token; --terraform prints everything as Terraform's JSON.

CAs are roots made in Vault unless they are signed elsewhere: --csr makes their keys in
Vault and writes a request for each to a folder as NAME.csr; --import takes the
certificates from a folder as NAME.crt, PEM, each with the chain up to the root behind it.

A cluster of one host that has the local issuer moves to Vault with --adopt-local, on that
host: its CAs with their keys, its service account key and its encryption key go on in
Vault, so that nothing is issued anew and nobody who trusted another stops doing so. Where
Vault has others of these already it refuses, and changes nothing. --adopt takes them from
a copy of the host's files: a folder in which var/lib/nodeagent is. On a host whose local
issuer has CAs of this cluster that Vault has not, bootstrap makes no new ones beside them.

` + vaultHelp,
		Example: `  nodeagent pki bootstrap --plan
  nodeagent pki bootstrap
  nodeagent pki bootstrap --print-policy | less
  nodeagent pki bootstrap --csr ./requests        then, with the signed ones:
  nodeagent pki bootstrap --import ./signed
  nodeagent pki bootstrap --adopt-local --fleet ./fleet.vault`,
		Args: noArgs,
	}
	b := bootstrap{options: o}
	var adoptLocal bool
	flags := cmd.Flags()
	flags.BoolVar(&b.plan, "plan", false, "only show what would be made")
	flags.BoolVar(&b.full, "full", false, "show every line of a plan")
	flags.BoolVar(&b.exitCode, "exit-code", false, "with --plan, exit with 2 when there are changes")
	policy := flags.Bool("print-policy", false, "print the policies of your token and of the hosts, and do nothing")
	terraform := flags.Bool("terraform", false, "print everything as Terraform's JSON, and do nothing")
	flags.StringVar(&b.requests, "csr", "", "have CAs signed elsewhere: write their requests to this `folder`")
	flags.StringVar(&b.signed, "import", "", "take the certificates of CAs that were signed elsewhere from this `folder`")
	cmd.MarkFlagsMutuallyExclusive("plan", "print-policy", "terraform")
	flags.BoolVar(&adoptLocal, "adopt-local", false, "go on with the CAs and keys of the local issuer on this host")
	flags.StringVar(&b.adopt, "adopt", "", "go on with those in a copy of a host's files in this `folder`")
	cmd.MarkFlagsMutuallyExclusive("csr", "import", "adopt", "adopt-local")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fleet, err := o.vaultFleet()
		if err != nil {
			return err
		}
		want, err := vault.Want(fleet)
		switch {
		case err != nil:
			return err
		case *policy:
			return printPolicies(o, fleet)
		case *terraform:
			content, err := vault.Terraform(want)
			if err == nil {
				_, err = fmt.Fprintf(o.stdout, "%s\n", content)
			}
			return err
		}
		client, err := vault.NewClient(fleet.Hosts[0].PKI.Vault)
		if err != nil {
			return err
		}
		if adoptLocal {
			b.adopt = "/"
		}
		b.client, b.want, b.host = client, want, fleet.Hosts[0]
		return vaultHint(b.run(cmd.Context()))
	}
	return cmd
}

// printPolicies prints the administrator's policy, those of the hosts, and those
// of people who may have a kubeconfig.
func printPolicies(o *options, fleet *hosts.Fleet) error {
	policies := map[string]string{}
	for _, spec := range fleet.Hosts {
		if len(spec.Roles) > 0 {
			policies[vault.Place(spec.PKI.Vault.Mount).Policy(spec.Name)] = vault.HostPolicy(spec)
		}
	}
	people := vault.PersonalPolicies(fleet)
	if o.json() {
		return printJSON(o, map[string]any{"administrator": vault.AdminPolicy(fleet), "hosts": policies, "people": people})
	}
	fmt.Fprintln(o.stdout, vault.AdminPolicy(fleet))
	for _, spec := range fleet.Hosts {
		name := vault.Place(spec.PKI.Vault.Mount).Policy(spec.Name)
		if policy, ok := policies[name]; ok {
			fmt.Fprintf(o.stdout, "# Policy %s\n%s\n", name, policy)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(people)) {
		fmt.Fprintf(o.stdout, "# Policy %s\n%s\n", name, people[name])
	}
	return nil
}

// bootstrap is one run of the command.
type bootstrap struct {
	*options
	plan, full, exitCode bool
	requests, signed     string // folders
	adopt                string // the root folder of a host; empty for none
	held                 pki.Held
	host                 *hosts.Spec // the first, whose local issuer it was
	client               *api.Client
	want                 vault.State
}

func (b *bootstrap) run(ctx context.Context) error {
	have, err := vault.Observe(ctx, b.client, b.want.Place)
	if err != nil {
		return err
	}
	if obstacles := vault.Obstacles(have, b.want); len(obstacles) > 0 {
		return errors.New(strings.Join(obstacles, "\n"))
	}
	if b.requests != "" || b.signed != "" {
		b.want.Offline()
	}
	if b.signed != "" {
		if err := vault.ReadSigned(ctx, b.client, have, &b.want, b.signed, time.Now()); err != nil {
			return err
		}
	}
	if b.adopt != "" {
		root := layout.Root(b.adopt)
		local := &pki.Local{Root: root, Keys: agent.CAKeyring(root, func() *hosts.Spec { return b.host }, b.prompt())}
		if b.held, err = local.Held(ctx); err != nil {
			return err
		}
	}
	if err := b.adopts(ctx, have); err != nil {
		return err
	}
	changes := vault.Diff(have, b.want)
	if b.plan {
		return b.print(plan.Plan{Changes: changes, Warnings: b.warnings(have)})
	}
	return b.apply(ctx, changes)
}

// adopts has Vault go on with what the local issuer holds, or, where that is not
// asked for, refuses to make CAs beside those of this host.
func (b *bootstrap) adopts(ctx context.Context, have vault.State) error {
	if b.adopt != "" {
		return vault.Adopt(ctx, b.client, have, &b.want, b.held, time.Now())
	}
	if names := vault.Beside(have, b.want, pki.LeftAuthorities(layout.Root(""))); len(names) > 0 {
		return withHint(fmt.Errorf("the local issuer on this host has the CAs %s of this cluster, and Vault has none in their places: new ones would be trusted by nobody", strings.Join(names, ", ")),
			"--adopt-local has Vault go on with them; to have new ones all the same, as for hosts made anew, run this on another machine")
	}
	return nil
}

func (b *bootstrap) print(p plan.Plan) error {
	var err error
	if b.json() {
		err = plan.WriteJSON(b.stdout, p)
	} else {
		style := plan.Style{Color: colored(b.stdout), MaxLines: shownLines, Nothing: "Vault is as the fleet says"}
		if b.full {
			style.MaxLines = 0
		}
		err = style.Write(b.stdout, p)
	}
	if err == nil && b.exitCode && !p.Empty() {
		return errChanges
	}
	return err
}

// warnings are what a person should know that is no change.
func (b *bootstrap) warnings(have vault.State) []string {
	var list []string
	if b.signed == "" {
		for _, a := range have.Waiting() {
			list = append(list, fmt.Sprintf("authority %s waits for its certificate: --csr writes its request, --import takes the certificate", a.Engine))
		}
	}
	for _, other := range have.Others {
		list = append(list, other.Key()+" is not nodeagent's and is left alone")
	}
	if !have.AuditHidden && len(have.Audit) == 0 {
		list = append(list, "no audit device is enabled, so nobody can tell later who had what signed: vault audit enable file file_path=/var/log/vault/audit.log")
	}
	return list
}

// bootstrapped is the JSON form of what was done.
type bootstrapped struct {
	Converged bool          `json:"converged"`
	Applied   int           `json:"applied"`
	Remaining []plan.Change `json:"remaining"`
	Requests  []string      `json:"requests"` // files of signing requests
	Warnings  []string      `json:"warnings"`
}

func (b *bootstrap) apply(ctx context.Context, changes []plan.Change) error {
	progress := newProgress(b.options)
	applyErr := vault.Apply(ctx, b.client, b.want.Place, changes, progress)
	progress.close()
	have, err := vault.Observe(ctx, b.client, b.want.Place)
	if err != nil {
		return errors.Join(applyErr, err)
	}
	if err := b.adopts(ctx, have); err != nil {
		return errors.Join(applyErr, err)
	}
	done := bootstrapped{Remaining: nonNil(vault.Diff(have, b.want)), Warnings: nonNil(b.warnings(have)), Requests: []string{}}
	done.Converged, done.Applied = len(done.Remaining) == 0, max(0, len(changes)-len(done.Remaining))
	if b.requests != "" && applyErr == nil {
		var files []string
		files, err = vault.WriteRequests(ctx, b.client, have, b.want, b.requests)
		done.Requests = nonNil(files)
	}
	return errors.Join(b.report(done), applyErr, err)
}

func (b *bootstrap) report(done bootstrapped) error {
	if b.json() {
		if err := printJSON(b.options, done); err != nil {
			return err
		}
	} else {
		b.tell(done)
	}
	if !done.Converged {
		var left []string
		for _, c := range done.Remaining {
			left = append(left, string(c.Action)+" "+c.Key)
		}
		return fmt.Errorf("what is in Vault is not as the fleet says; left to do: %s", strings.Join(left, ", "))
	}
	return nil
}

func (b *bootstrap) tell(done bootstrapped) {
	for _, file := range done.Requests {
		fmt.Fprintf(b.stdout, "request %s\n", file)
	}
	for _, warning := range done.Warnings {
		fmt.Fprintf(b.stderr, "warning: %s\n", warning)
	}
	switch {
	case !done.Converged:
	case done.Applied == 0:
		fmt.Fprintln(b.stdout, "Nothing to do: Vault is as the fleet says.")
	default:
		fmt.Fprintf(b.stdout, "Vault is as the fleet says: %s made.\n", plan.Count(done.Applied, "change"))
	}
}
