// Command demo shows nodeagent at work: it boots a bare host on this machine,
// lets nodeagent make a Kubernetes node of it, runs a pod there, and leaves it
// running to look around. "make demo", "make demo-shell" and "make demo-clean"
// run it. It needs root; nothing of the machine outside the lab is changed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/nodeagent/nodeagent/test/lab"
)

// labName is under which "shell" and "clean" find what "up" made.
const labName = "demo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	commands := map[string]func(context.Context) error{"up": up, "shell": shell, "clean": clean}
	name := "up"
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	run := commands[name]
	if run == nil || len(os.Args) > 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/demo [up|shell|clean]")
		os.Exit(2)
	}
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// shell gives the user a shell on the demo's host.
func shell(ctx context.Context) error {
	host, err := running()
	if err != nil {
		return err
	}
	fmt.Println("You are root on the host mercury. Try: nodeagent status; kubectl get pods -A; journalctl -u nodeagent")
	err = host.Shell(ctx, "bash", "--login")
	// What the user's last command in it answered is no news.
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// running is the demo's host, which must be running.
func running() (*lab.Mercury, error) {
	l, err := lab.Attach(labName, os.Stderr)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("there is no demo; start it with: make demo")
	}
	if err != nil {
		return nil, err
	}
	host, err := l.AttachMercury()
	if err != nil {
		return nil, err
	}
	if !host.Running() {
		return nil, errors.New("the demo's host is off; start it again with: make demo")
	}
	return host, nil
}

// clean removes the demo and whatever killed tests left behind.
func clean(ctx context.Context) error {
	if err := lab.Sweep(ctx, os.Stderr); err != nil {
		return err
	}
	l, err := lab.Attach(labName, os.Stderr)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Println("There is no demo to remove.")
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.Close(ctx); err != nil {
		return err
	}
	fmt.Println("The demo is gone: its host, its network and its files. What was built stays in the cache; make clean removes that too.")
	return nil
}
