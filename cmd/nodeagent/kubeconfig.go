package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

func newKubeconfig(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Make a short-lived kubeconfig for an administrator",
		Long: `kubeconfig lets a person in at the cluster for some hours: it makes a key, has it signed
and writes a kubeconfig with all in it, which only its owner can read. The key goes
nowhere else.

With Vault it runs wherever the fleet is, with your own token, which needs the policy of
the group's role and no other ('nodeagent pki bootstrap --print-policy'). With the local
issuer it runs as root on the host.

--group ` + layout.AdminGroup + ` may do everything that a ClusterRole can say, as long as its
binding is there; its users are called ` + pki.AdminUserPrefix + `NAME. --group ` + pki.BreakGlassGroup + ` is
break-glass: nothing in the cluster can take it away before it ends, and it is always the
user ` + pki.BreakGlassUser + `.

Without --out it goes to standard output, which must not be a terminal or a file that
others can read.

` + vaultHelp,
		Example: `  nodeagent kubeconfig --user alice --out alice.kubeconfig
  nodeagent kubeconfig --user alice --ttl 1h | kubectl --kubeconfig /dev/stdin get nodes
  nodeagent kubeconfig --group system:masters --ttl 2h --out break-glass.kubeconfig`,
		Args: noArgs,
	}
	k := kubeconfig{options: o}
	flags := cmd.Flags()
	flags.StringVar(&k.group, "group", layout.AdminGroup, "the `group` in Kubernetes: "+layout.AdminGroup+" or "+pki.BreakGlassGroup)
	flags.StringVar(&k.user, "user", "", "the `name` of the person (default: who is logged in)")
	flags.DurationVar(&k.ttl, "ttl", 8*time.Hour, "for how long it is good")
	flags.StringVar(&k.out, "out", "", "write to this `file`, mode 0600")
	flags.StringVar(&k.server, "server", "", "the `URL` of the API server (default: the cluster's endpoint)")
	must(cmd.RegisterFlagCompletionFunc("group", cobra.FixedCompletions([]string{layout.AdminGroup, pki.BreakGlassGroup}, cobra.ShellCompDirectiveNoFileComp)))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return k.run(cmd.Context(), cmd.Flags().Changed("ttl")) }
	return cmd
}

// kubeconfig is one run of the command.
type kubeconfig struct {
	*options
	group, user, out, server string
	ttl                      time.Duration
}

func (k *kubeconfig) run(ctx context.Context, chosen bool) error {
	fleet, err := k.load()
	if err != nil {
		return err
	}
	spec := fleet.Hosts[0] // what is the cluster's is the same in all specs
	request, err := k.request(spec, chosen)
	if err != nil {
		return usageError{err}
	}
	if k.server != "" && !strings.HasPrefix(k.server, "https://") {
		return usageError{fmt.Errorf("--server %q is no https:// URL", k.server)}
	}
	if err := k.checkPlace(); err != nil {
		return err
	}
	issuer, err := k.issuer(spec)
	if err != nil {
		return err
	}
	made, err := pki.IssuePersonal(ctx, issuer, request, time.Now())
	if spec.PKI.Issuer == pki.IssuerLocal && os.Geteuid() != 0 {
		err = withHint(err, "with the local issuer this runs as root on the cluster's host")
	}
	if err != nil {
		return err
	}
	return k.deliver(spec, made)
}

// request is what the flags ask for. A life that was not asked for is no longer
// than the fleet lets it be.
func (k *kubeconfig) request(spec *hosts.Spec, chosen bool) (pki.Request, error) {
	name, ttl := k.user, k.ttl
	if k.group != pki.BreakGlassGroup {
		if name == "" {
			who, err := user.Current()
			if err != nil {
				return pki.Request{}, withHint(fmt.Errorf("find out who is logged in: %w", err), "--user NAME says it")
			}
			name = strings.ToLower(who.Username)
		}
		if !chosen {
			ttl = min(ttl, pki.PersonalMax(spec.PKI, pki.PersonalAdmin))
		}
	}
	return pki.PersonalRequest(spec.PKI, k.group, name, ttl)
}

// issuer is the fleet's, for a person.
func (k *kubeconfig) issuer(spec *hosts.Spec) (pki.Issuer, error) {
	if spec.PKI.Issuer != pki.IssuerVault {
		return &pki.Local{Keys: agent.CAKeyring("", func() *hosts.Spec { return spec }, k.prompt())}, nil
	}
	client, err := vault.NewClient(spec.PKI.Vault)
	if err != nil {
		return nil, err
	}
	return vault.ForPeople(client, spec.PKI.Vault), nil
}

// checkPlace refuses, before anything is made, to put a key where others would
// see it or where it would replace something else.
func (k *kubeconfig) checkPlace() error {
	const hint = "--out FILE writes a file that only you can read"
	if k.out != "" {
		return withHint(pki.CheckKubeconfigFile(k.out), "--out names another file")
	}
	if k.json() {
		return usageError{errors.New("-o json tells of a file: name it with --out")}
	}
	if terminal(k.stdout) {
		return withHint(errors.New("a kubeconfig holds a private key, which is not printed to a terminal"), hint)
	}
	return withHint(unseen(k.stdout), hint)
}

// unseen refuses a file that others than its owner can read.
func unseen(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at standard output: %w", err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return fmt.Errorf("a kubeconfig holds a private key, and others can read what standard output goes to (mode %#o)", mode.Perm())
	}
	return nil
}

// deliver writes the kubeconfig and says what it is.
func (k *kubeconfig) deliver(spec *hosts.Spec, made pki.Personal) error {
	server := k.server
	if server == "" {
		server = "https://" + spec.Kubernetes.Endpoint
	}
	content := made.Kubeconfig(spec.Cluster, server)
	if k.out == "" {
		if _, err := k.stdout.Write(content); err != nil {
			return fmt.Errorf("write kubeconfig to standard output: %w", err)
		}
	} else if err := pki.WriteKubeconfig(k.out, content); err != nil {
		return err
	}
	if k.json() {
		return printJSON(k.options, map[string]any{
			"file": k.out, "server": server, "user": made.CommonName, "group": made.Organization,
			"serial": made.Serial, "not_after": made.NotAfter,
		})
	}
	k.tell(server, made)
	return nil
}

func (k *kubeconfig) tell(server string, made pki.Personal) {
	where := ""
	if k.out != "" {
		where = k.out + ": "
	}
	left := time.Until(made.NotAfter).Round(time.Minute)
	fmt.Fprintf(k.stderr, "%s%s of group %s at %s until %s (%s)\n", where, made.CommonName, made.Organization, server, made.NotAfter.UTC().Format(time.RFC3339), age(left))
	if left < made.Lifetime-time.Minute {
		fmt.Fprintf(k.stderr, "warning: the issuer gave it less than the %s that were asked for\n", made.Lifetime)
	}
	if made.Organization == pki.BreakGlassGroup {
		fmt.Fprintf(k.stderr, "warning: nothing in the cluster can take group %s away before that; write down why it was needed\n", pki.BreakGlassGroup)
	}
}
