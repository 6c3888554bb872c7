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
that is due. It takes etcd snapshots on the fleet's schedule, tries by schedule whether
they restore, and tells Prometheus how the host is where metrics.listen says so. An
invalid fleet is reported and the last valid one stays in force.

A new network is made on trial where the spec names probes: if something that answered
before does no more, it is undone, and not tried again until the spec changes. A domain
with drift = "report" is made at boot and when the spec changes what it wants; later
differences are logged once and shown by status, and nodeagent apply repairs them. Only
one run is allowed at a time on a host.`,
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
				Fleet: o.source(), Host: name, Log: logger(o.stderr), Version: version(),
			})
		},
	}
}
