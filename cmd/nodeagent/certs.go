package main

import "github.com/spf13/cobra"

func newCerts(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "certs",
		Short:   "Look after certificates and the CAs that sign them",
		Example: `  nodeagent certs rotate-ca etcd-peer`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRotateCA(o))
	return cmd
}
