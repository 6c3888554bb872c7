package main

import "github.com/spf13/cobra"

func newCerts(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Look after certificates and the CAs that sign them",
		Long: `certs is about the certificates and keys of this host: what it has and for how long, what
that is worth, and how to have new ones. They are renewed by themselves when they are
due; nothing here needs to be run for that.`,
		Example: `  nodeagent certs list
  nodeagent certs show kube-apiserver
  nodeagent certs report
  nodeagent certs renew --revoke admin
  nodeagent certs rotate-ca etcd-peer
  nodeagent certs rotate-key encryption
  nodeagent certs passphrase`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCertsList(o), newCertsShow(o), newCertsReport(o), newCertsRenew(o), newRotateCA(o), newRotateKey(o), newCertsPassphrase(o))
	return cmd
}
