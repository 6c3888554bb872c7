package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// changeable are the CAs that rotate-ca knows.
var changeable = []string{layout.CAEtcdServer, layout.CAEtcdPeer, layout.CAK8sServer, layout.CAK8sClient, layout.CAFrontProxy, layout.CANodeagent}

func newRotateCA(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-ca NAME",
		Short: "Change a CA for a new one without an outage",
		Long: `rotate-ca changes one of the cluster's CAs (` + strings.Join(changeable, ", ") + `)
for a new one, step by step: the new one is added beside the old one; every host trusts
both, and proves it; the new one signs; every certificate is issued again, and proven on
its live port; the old one is dropped, and every host forgets it. It waits for hosts, and
says for which. etcd members restart one after another, each only while the others make a
quorum.

With the local issuer it runs on the host itself. With Vault it runs wherever the fleet
and an administrator's token are (VAULT_TOKEN), while 'nodeagent run' on each host
follows; a host that is off holds it up until it is back, or out of the fleet.

A CA that is signed by a root outside of Vault is changed in two halves. The command makes
the new key in Vault, writes a request for it (NAME.csr, or the file of --csr), and says
what to do; with --signed FILE, PEM with the chain up to the root behind it, it goes on.
--csr does the same for a CA whose root is in Vault. nodeagent, with which hosts log in,
is a CA of Vault's alone; while it is changed, logins trust both.

It can be interrupted at any time: the same command goes on from there. --back turns it
back, as long as the old one is not dropped.`,
		Example: `  nodeagent certs rotate-ca etcd-peer
  nodeagent certs rotate-ca etcd-peer --back
  nodeagent certs rotate-ca etcd-peer --csr etcd-peer.csr         then, when it is signed:
  nodeagent certs rotate-ca etcd-peer --signed etcd-peer.crt
  VAULT_TOKEN=… nodeagent certs rotate-ca k8s-client --fleet ./fleet`,
		Args: oneOf("CA", changeable), ValidArgs: changeable,
	}
	back := cmd.Flags().Bool("back", false, "go back to the old CA")
	h := halves{options: o}
	cmd.Flags().StringVar(&h.csr, "csr", "", "have the new CA signed outside of Vault: write the request to this `file`")
	cmd.Flags().StringVar(&h.signed, "signed", "", "go on with the certificate in this `file`, PEM, with the chain up to the root behind it")
	cmd.MarkFlagsMutuallyExclusive("csr", "signed", "back")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		fleet, err := o.load()
		if err != nil {
			return err
		}
		r := rotation{options: o, began: time.Now()}
		if err := h.check(fleet.Hosts[0].PKI.Issuer, args[0]); err != nil {
			return err
		}
		if fleet.Hosts[0].PKI.Issuer == pki.IssuerVault {
			client, err := vault.NewClient(fleet.Hosts[0].PKI.Vault)
			if err != nil {
				return err
			}
			done, err := h.prepare(cmd.Context(), client, fleet, args[0], *back)
			if done || err != nil {
				return vaultHint(err)
			}
			err = agent.ChangeVaultCA(cmd.Context(), client, fleet, args[0], *back, r.tell)
			return r.end(args[0], err)
		}
		host, err := o.open(cmd)
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
		return r.end(args[0], host.ChangeLocalCA(cmd.Context(), args[0], *back, r.tell, plan.Silent{}))
	}
	return cmd
}

// oneOf is a cobra argument check for commands that take one of some words.
func oneOf(what string, words []string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && slices.Contains(words, args[0]) {
			return nil
		}
		err := fmt.Errorf("name one %s: %s", what, strings.Join(words, ", "))
		if len(args) == 1 {
			err = fmt.Errorf("there is no %s %q: there are %s", what, args[0], strings.Join(words, ", "))
		}
		return usageError{withHint(err, fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
	}
}

// rotation tells of a change as it goes on.
type rotation struct {
	*options
	began time.Time
	steps []rotationStep
}

// rotationStep is one step as it is printed.
type rotationStep struct {
	Step    string   `json:"step"`
	After   string   `json:"after"`
	Waiting []string `json:"waiting,omitempty"`
}

// stepWords are what people read of each step.
var stepWords = map[pki.Do][2]string{
	pki.DoAdd:     {"add", "adding a second authority"},
	pki.DoTrust:   {"trust", "waiting until every host trusts both"},
	pki.DoSwitch:  {"switch", "every host trusts both; letting the other one sign"},
	pki.DoIssue:   {"issue", "waiting until every certificate is issued again and proven on its port"},
	pki.DoDrop:    {"drop", "no host needs the one any more; dropping it"},
	pki.DoForget:  {"forget", "waiting until no host trusts it any more"},
	pki.DoNothing: {"done", "nothing is left to do"},
}

func (r *rotation) tell(step pki.Do, _ pki.Change, late []pki.Use) {
	s := rotationStep{Step: stepWords[step][0], After: time.Since(r.began).Round(time.Millisecond).String()}
	for _, u := range late {
		s.Waiting = append(s.Waiting, u.Host+": "+cmp.Or(u.Problem, "it has not caught up yet"))
	}
	r.steps = append(r.steps, s)
	if r.json() {
		return
	}
	fmt.Fprintf(r.stdout, "%8s  %s\n", time.Since(r.began).Round(100*time.Millisecond), stepWords[step][1])
	for _, host := range s.Waiting {
		fmt.Fprintf(r.stdout, "          - %s\n", host)
	}
}

func (r *rotation) end(ca string, err error) error {
	if r.json() {
		steps := r.steps
		if steps == nil {
			steps = []rotationStep{}
		}
		printed := printJSON(r.options, map[string]any{"ca": ca, "done": err == nil, "steps": steps})
		if err == nil {
			return printed
		}
	}
	if err != nil {
		return withHint(err, fmt.Sprintf("'nodeagent certs rotate-ca %s' goes on from here; --back turns it back while the old CA is there", ca))
	}
	if !r.json() {
		fmt.Fprintf(r.stdout, "Changed CA %s in %s.\n", ca, time.Since(r.began).Round(100*time.Millisecond))
	}
	return nil
}
