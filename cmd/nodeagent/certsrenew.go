package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

func newCertsRenew(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "renew NAME…",
		Short: "Issue certificates anew, although they are not due",
		Long: `renew has certificates of this host issued anew, with new keys, and the components use
them: it answers 0 when every live port has proven that. What a component refuses is put
back. Certificates are renewed by themselves when they are due; this is for when a key
may have leaked.

--revoke then puts the old ones on the list of revoked certificates of their CA in Vault,
which is shown their keys for that, as the proof that it may. Interrupted, the same
command goes on from there. Know what that is worth: no component of Kubernetes reads
such lists, nor does etcd as nodeagent sets it up, so that a leaked key is let in until
its certificate ends. 'nodeagent certs rotate-ca CA' ends that at once, for all
certificates of the CA. The local issuer keeps no such list at all.`,
		Example: `  nodeagent certs renew kube-proxy
  nodeagent certs renew --revoke admin etcd-peer
  nodeagent certs renew --all`,
		ValidArgsFunction: o.certificateNames,
	}
	r := renewing{options: o}
	cmd.Flags().BoolVar(&r.all, "all", false, "renew every certificate of this host")
	cmd.Flags().BoolVar(&r.revoke, "revoke", false, "revoke the old ones in Vault once the new ones are in use")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if r.all == (len(args) == 0) {
			return nil
		}
		return usageError{withHint(errors.New("name certificates, or give --all and no name"), fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return r.run(cmd, args) }
	return cmd
}

// renewing is one run of the command.
type renewing struct {
	*options
	all, revoke bool
}

func (r *renewing) run(cmd *cobra.Command, names []string) error {
	spec, err := r.spec()
	if err != nil {
		return err
	}
	if names, err = r.names(spec, names); err != nil {
		return err
	}
	host, err := agent.Open(cmd.Context(), "", spec, logger(r.stderr))
	if err != nil {
		return err
	}
	defer host.Close()
	lock, err := agent.Acquire(cmd.Context(), "", agent.FollowDomains(), lockPatience)
	if err != nil {
		return err
	}
	defer lock.Release()
	host.Holds(lock)
	return r.renew(cmd.Context(), host, names)
}

// names are the certificates to be renewed, each once.
func (r *renewing) names(spec *hosts.Spec, names []string) ([]string, error) {
	want := pki.Want(spec)
	known := namesOf(want)
	if r.all {
		names = known
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, unknownCertificate(name, spec, want)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("host %s has no role, so it has no certificate", spec.Name)
	}
	if r.revoke && spec.PKI.Issuer != pki.IssuerVault {
		var cas []string
		for _, c := range want.Certificates {
			if slices.Contains(names, c.Name) && !slices.Contains(cas, c.CA) {
				cas = append(cas, c.CA)
			}
		}
		return nil, withHint(
			errors.New("nothing was renewed: the local issuer keeps no list of revoked certificates, and nothing in the cluster would read one"),
			"without --revoke they are renewed; 'nodeagent certs rotate-ca "+strings.Join(cas, "', 'nodeagent certs rotate-ca ")+"' makes the old ones worthless at once")
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (r *renewing) renew(ctx context.Context, host *agent.Host, names []string) error {
	progress := newProgress(r.options)
	list, err := host.RenewCertificates(ctx, names, r.revoke, progress)
	progress.close()
	if r.json() {
		err = errors.Join(printJSON(r.options, map[string]any{"done": err == nil, "certificates": nonNil(list)}), err)
	} else {
		printRenewed(newScreen(r.stdout), list)
	}
	if err != nil && r.revoke {
		return withHint(err, "what is still to be revoked is kept: the same command goes on from there")
	}
	return err
}

func printRenewed(out screen, list []pki.Renewed) {
	var revoked []string
	for _, c := range list {
		word := out.good("renewed and proven")
		switch {
		case c.Serial == c.Before && !c.Proven:
			word = out.bad("not renewed")
		case !c.Proven:
			word = out.bad("renewed, not proven")
		}
		text := fmt.Sprintf("%s: %s, serial %s, ends on %s", c.Name, word, c.Serial, moment(c.NotAfter))
		if len(c.Revoked) > 0 {
			text += "; revoked: " + strings.Join(c.Revoked, ", ")
			revoked = append(revoked, fmt.Sprintf("%s until %s (nodeagent certs rotate-ca %s ends that at once)", c.Name, moment(c.RevokedEnds), c.CA))
		}
		fmt.Fprintln(out.w, text)
	}
	if len(revoked) > 0 {
		fmt.Fprintf(out.w, "Nothing in the cluster reads lists of revoked certificates: whoever has an old key is let in, with that of\n")
		for _, text := range revoked {
			fmt.Fprintf(out.w, "  %s\n", text)
		}
	}
}
