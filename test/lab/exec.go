package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// environment is what a command inside a host sees: nothing of the machine's.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LANG=C.UTF-8",
}

// Command prepares a command inside the host, to be run by the caller. The
// host's processes see it as one of theirs.
func (h *Host) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	leader, err := h.enter()
	if err != nil {
		return nil, fmt.Errorf("run %q: %w", strings.Join(args, " "), err)
	}
	// nsenter waits outside for the command inside. When it is killed at the
	// context's end, the command is to go with it, which setpriv arranges; what
	// the command started in turn may hold its output open, for WaitDelay.
	enter := []string{"-t", strconv.Itoa(leader), "-a", "--", "setpriv", "--pdeathsig", "KILL", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.WaitDelay = 2 * time.Second
	cmd.Env = environment
	cmd.Dir = "/"
	return cmd, nil
}

// Exec runs a command inside the host and returns its standard output. Its
// error carries the end of what the command printed.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return h.ExecInput(ctx, nil, args...)
}

// ExecInput is Exec with a standard input.
func (h *Host) ExecInput(ctx context.Context, input io.Reader, args ...string) (string, error) {
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = input
	out, err := output(cmd)
	if err != nil {
		return out, fmt.Errorf("on host %q: %s: %w", h.name, strings.Join(args, " "), err)
	}
	return out, nil
}

// Shell is a command inside the host with the caller's terminal.
func (h *Host) Shell(ctx context.Context, args ...string) error {
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, "TERM="+os.Getenv("TERM"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
