package main

import (
	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
)

func newRun(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Keep this host as its spec says (the systemd service)",
		Long: `run converges the host when it starts and whenever something calls for it: SIGHUP,
a change of the fleet's files, a change of the network or of a unit, a certificate
that is due. It takes etcd snapshots on the fleet's schedule. An invalid fleet is
reported and the last valid one stays in force.`,
		Example: `  systemctl enable --now nodeagent
  systemctl reload nodeagent           converge now
  nodeagent run --fleet ./fleet        in the foreground`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := o.hostName()
			if err != nil {
				return err
			}
			return agent.Run(cmd.Context(), agent.Settings{
				Fleet: o.fleet, Host: name, Log: logger(o.stderr), Version: version(),
			})
		},
	}
}
