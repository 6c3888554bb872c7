// Command nodeagent makes a bare-metal Kubernetes host be as its fleet's TOML
// files say, and keeps it so. See `nodeagent --help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	// Calendar expressions may name a time zone, and bare hosts may have no
	// zone files.
	_ "time/tzdata"
)

func main() { os.Exit(Main()) }

// Main runs the command line in os.Args and returns the exit code. It is apart
// from main so that the tests run the very same program.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends what is under way in order; a second one ends the
	// program at once.
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
