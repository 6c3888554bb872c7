// Command build makes what the lab needs and is not there yet: the server
// programs, the Vault servers, the vault command with the agent that hosts move
// from, older etcds, the S3 server, the pod image, the root folder of the hosts and
// the kernel of the virtual machines, all of them side by side. "make servers"
// and "make rootfs" run it; so may anyone who wants the long builds out of the
// way before the first test.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/test/servers"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./test/servers/build [servers] [vault] [etcds] [s3] [image] [rootfs] [kernel] [released]\n\nWithout arguments it makes all but the last, what benchmarks run beside. Set NODEAGENT_CACHE to keep them elsewhere than in .cache.")
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	builder, err := servers.New(os.Stderr)
	if err != nil {
		return err
	}
	products := map[string]func(context.Context) (string, error){
		"servers":  builder.Programs,
		"vault":    builder.Vaults,
		"etcds":    builder.Etcds,
		"s3":       builder.S3,
		"image":    builder.PodImage,
		"rootfs":   builder.RootFS,
		"kernel":   builder.Kernel,
		"released": builder.Released,
	}
	if len(names) == 0 {
		names = []string{"servers", "vault", "etcds", "s3", "image", "rootfs", "kernel"}
	}
	start := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	places := make([]string, len(names))
	for i, name := range names {
		product := products[name]
		if product == nil {
			return fmt.Errorf("no product %q; there are servers, vault, etcds, s3, image, rootfs, kernel and released", name)
		}
		wg.Go(func() { places[i], errs[i] = product(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, name := range names {
		fmt.Printf("%-10s %s\n", name, places[i])
	}
	fmt.Printf("ready after %s\n", time.Since(start).Round(time.Second))
	return nil
}
