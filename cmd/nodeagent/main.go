//go:build !docgen

// Command nodeagent makes a bare-metal Kubernetes host be as its fleet's TOML
// files say, and keeps it so. See `nodeagent --help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	// Calendar expressions may name a time zone, and bare hosts may have no
	// zone files.
	_ "time/tzdata"
)

// gcPercent is how much the heap of a command may grow before it is collected,
// in percent of what is in use.
const gcPercent = 400

func main() { os.Exit(Main()) }

// Main runs the command line in os.Args and returns the exit code. It is apart
// from main so that the tests run the very same program.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends what is under way in order; a second one ends the
	// program at once.
	context.AfterFunc(ctx, stop)
	// Most commands are over in a fraction of a second and use little memory:
	// collecting it costs more than it gives. The daemon sets its own.
	debug.SetGCPercent(gcPercent)
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
