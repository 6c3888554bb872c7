package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/agent"
)

// lockoutError is a change of the network that would cut ways that are open.
type lockoutError struct{ cuts []agent.Cut }

// Error names each way with the line of the fleet that cuts it, and what to do.
func (e lockoutError) Error() string {
	lines := []string{"nothing was done: the spec would cut off what is open now"}
	for _, c := range e.cuts {
		lines = append(lines, "  "+c.String())
	}
	lines = append(lines, "hint: change the line, or come in by a way that stays; --force-lockout makes the change all the same, best with --confirm")
	return strings.Join(lines, "\n")
}

// guardWays refuses a network that cuts a way that is open, unless it is forced.
// What is cut already, or cannot be judged, is for plan to tell.
func guardWays(ctx context.Context, o *options, host *agent.Host, names []string, force bool) error {
	cuts, err := host.Cuts(ctx, sshSession(), names)
	if err != nil {
		fmt.Fprintf(o.stderr, "warning: whether the change cuts a way in is not known: %v\n", err)
		return nil
	}
	cuts = slices.DeleteFunc(cuts, func(c agent.Cut) bool { return c.Already })
	refusing := slices.DeleteFunc(slices.Clone(cuts), func(c agent.Cut) bool { return !c.Refuses() })
	if len(refusing) > 0 && !force {
		return lockoutError{refusing}
	}
	for _, c := range cuts {
		fmt.Fprintf(o.stderr, "warning: %s\n", c)
	}
	return nil
}
