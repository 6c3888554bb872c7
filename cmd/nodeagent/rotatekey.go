package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// changeableKeys are the keys that rotate-key knows.
var changeableKeys = []string{pki.KeyServiceAccount, pki.KeyEncryption}

func newRotateKey(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate-key service-account|encryption",
		Short: "Change the key that signs tokens, or that encrypts Secrets, without an outage",
		Long: `rotate-key changes one of the two secrets that all control planes share for a new one,
step by step, and waits for every control plane at each.

service-account: the new key is accepted by every API server; then it signs; the old one
is accepted until the last token that it signed has ended (--overlap); then it is dropped.
Kubelets renew pods' tokens within the hour. These end with the old key, whatever their
own end is: tokens of programs that never read theirs again, tokens made by hand for
longer than the overlap, and those in Secrets of the type
kubernetes.io/service-account-token, which have to be deleted and made anew before.

encryption: every API server can read with the new key; then it encrypts; every Secret in
etcd that another key has encrypted, or none, is written anew and counted in etcd itself;
only when none is left, the old key is dropped. Snapshots from before need it: it stays in
the file keys/encryption/retired on each control plane, under its fingerprint.

With the local issuer it runs on the host itself. With Vault it needs an administrator's
token (VAULT_TOKEN), and for the encryption key it runs on a control plane;
'nodeagent run' on each host follows.

It can be interrupted at any time: the same command goes on from there. --back turns it
back, as long as the old key is not dropped.`,
		Example: `  nodeagent certs rotate-key encryption
  nodeagent certs rotate-key service-account --overlap 48h
  nodeagent certs rotate-key service-account --back`,
		Args: oneOf("key", changeableKeys), ValidArgs: changeableKeys,
	}
	back := cmd.Flags().Bool("back", false, "go back to the old key")
	overlap := cmd.Flags().Duration("overlap", 0, fmt.Sprintf("how long the old service account key is accepted after the last token that it signed (default %s, or what the change began with)", pki.KeyOverlap))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *overlap < 0 || *overlap > 0 && args[0] != pki.KeyServiceAccount {
			return usageError{fmt.Errorf("--overlap is a positive time, and of the service account key alone")}
		}
		fleet, err := o.load()
		if err != nil {
			return err
		}
		r := keyRotation{options: o, name: args[0], began: time.Now()}
		return r.end(r.run(cmd, fleet, agent.KeyChange{Name: args[0], Back: *back, Overlap: *overlap, Tell: r.tell}))
	}
	return cmd
}

// run changes the key with the fleet's issuer.
func (r *keyRotation) run(cmd *cobra.Command, fleet *hosts.Fleet, change agent.KeyChange) error {
	shared := fleet.Hosts[0].PKI.Issuer == pki.IssuerVault
	var secrets pki.Secrets
	if !shared || change.Name == pki.KeyEncryption {
		host, err := r.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		if !host.Spec().Has(hosts.RoleControlPlane) {
			return fmt.Errorf("change key %q: host %q has not the role control-plane: run this on one that has", change.Name, host.Spec().Name)
		}
		if !shared {
			return host.ChangeLocalKey(cmd.Context(), change, plan.Silent{})
		}
		secrets = host.Secrets()
	}
	client, err := vault.NewClient(fleet.Hosts[0].PKI.Vault)
	if err != nil {
		return err
	}
	return agent.ChangeVaultKey(cmd.Context(), client, fleet, secrets, change)
}

// keyRotation tells of a change of a key as it goes on.
type keyRotation struct {
	*options
	name  string
	began time.Time
	steps []keyStep
	old   string
}

// keyStep is one step as it is printed.
type keyStep struct {
	Step    string   `json:"step"`
	After   string   `json:"after"`
	Waiting []string `json:"waiting,omitempty"`
	// Until is when the last token of the old key has ended.
	Until *time.Time `json:"until,omitempty"`
	// Left is how many Secrets are not encrypted with the new key.
	Left *int `json:"left,omitempty"`
}

// keyWords are what people read of each step.
var keyWords = map[pki.KeyDo][2]string{
	pki.KeyAdd:     {"add", "adding a second key"},
	pki.KeyServe:   {"serve", "waiting until every control plane accepts both keys"},
	pki.KeySwitch:  {"switch", "every control plane accepts both; taking the other one into use"},
	pki.KeyUse:     {"use", "waiting until every control plane uses it"},
	pki.KeyMark:    {"mark", "no token is signed with the one before any more"},
	pki.KeyWait:    {"wait", "waiting until the last token that it signed has ended"},
	pki.KeyCount:   {"count", "counting the Secrets in etcd that it does not encrypt"},
	pki.KeyRewrite: {"rewrite", "writing Secrets anew"},
	pki.KeyDrop:    {"drop", "nothing needs the one before any more; dropping it"},
	pki.KeyForget:  {"forget", "waiting until no control plane has it any more"},
	pki.KeyDone:    {"done", "nothing is left to do"},
}

func (r *keyRotation) tell(step pki.KeyDo, c pki.Change, late []pki.Use, left int) {
	r.old = c.Old
	if c.Back {
		r.old = c.New
	}
	words := keyWords[step][1]
	s := keyStep{Step: keyWords[step][0], After: time.Since(r.began).Round(time.Millisecond).String()}
	for _, u := range late {
		s.Waiting = append(s.Waiting, u.Host+": "+cmp.Or(u.Problem, "it has not caught up yet"))
	}
	if step == pki.KeyWait && c.Key != nil {
		until := c.Key.Until().UTC().Truncate(time.Second)
		s.Until = &until
		words += ", " + until.Format(time.RFC3339) + "; it may be interrupted and run again later"
	}
	if step == pki.KeyRewrite {
		s.Left = &left
		words = fmt.Sprintf("writing %d Secrets anew", left)
	}
	r.steps = append(r.steps, s)
	if r.json() {
		return
	}
	fmt.Fprintf(r.stdout, "%8s  %s\n", time.Since(r.began).Round(100*time.Millisecond), words)
	for _, host := range s.Waiting {
		fmt.Fprintf(r.stdout, "          - %s\n", host)
	}
}

func (r *keyRotation) end(err error) error {
	if r.json() {
		steps := r.steps
		if steps == nil {
			steps = []keyStep{}
		}
		printed := printJSON(r.options, map[string]any{"key": r.name, "done": err == nil, "dropped": r.old, "steps": steps})
		if err == nil {
			return printed
		}
	}
	if err != nil {
		return withHint(err, fmt.Sprintf("'nodeagent certs rotate-key %s' goes on from here; --back turns it back while the old key is there", r.name))
	}
	fmt.Fprintf(r.stdout, "Changed key %s in %s; %s is dropped.\n", r.name, time.Since(r.began).Round(100*time.Millisecond), r.old)
	if r.name == pki.KeyEncryption {
		fmt.Fprintf(r.stdout, "Snapshots of etcd from before need it: each control plane keeps it in %s.\n", pki.RetiredFile(""))
	}
	return nil
}
