package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
)

// newHold is for the unit of the API server alone, which see.
func newHold() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Keep others away from an API server that starts",
		Long: `hold is what systemd runs with nodeagent-kube-apiserver.service: while that starts, and until
it is ready, what other machines open to its port is reset, so that they go to another one
instead of being denied everything. The kernel ends a hold by itself, after two minutes at
most.`,
		Example: `  nodeagent hold start 6443
  nodeagent hold ready 6443
  nodeagent hold end`,
		Hidden: true,
		Args:   noArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		holdPort("start", "Hold the port", func(_ context.Context, port uint16) error { return agent.HoldAPIServer(port) }),
		holdPort("ready", "Hold the port until the server is ready, a minute at most", func(ctx context.Context, port uint16) error {
			return agent.ReleaseReadyAPIServer(ctx, "", port)
		}),
		&cobra.Command{
			Use: "end", Short: "Hold no port", Long: "end releases the port that is held, if one is.",
			Example: "  nodeagent hold end", Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return agent.ReleaseAPIServer() },
		},
	)
	return cmd
}

func holdPort(name, short string, run func(context.Context, uint16) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " PORT", Short: short, Long: short + ".", Example: "  nodeagent hold " + name + " 6443",
		Args: exactlyOne("PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			port, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil {
				return usageError{fmt.Errorf("%q is no port", args[0])}
			}
			return run(cmd.Context(), uint16(port))
		},
	}
}
