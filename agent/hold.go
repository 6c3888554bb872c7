package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
)

// An API server answers 403 to whom it should let do something, from when it
// listens until it has read the roles. So its port is held while it starts: to
// other machines it is not there yet, and they go to another one. systemd runs
// the parts of it with the unit; the kernel ends each hold by itself.
const (
	// holdStart is for how long the port is held before the server listens. Until
	// it does the hold makes no difference to others.
	holdStart = 2 * time.Minute
	// holdLease is for how long it is held from one look at a server that listens
	// to the next ones, a quarter of that later: what is left of it once whoever
	// looks was killed.
	holdLease = 20 * time.Second
	// holdLimit is when a server that is not ready is left to others as it is.
	holdLimit = time.Minute
	// holdPause is between two looks.
	holdPause = 100 * time.Millisecond
)

// HoldAPIServer holds the port of an API server that is about to start.
func HoldAPIServer(port uint16) error { return netcfg.HoldPort(port, holdStart) }

// ReleaseAPIServer ends that.
func ReleaseAPIServer() error { return netcfg.ReleasePorts() }

// ReleaseReadyAPIServer holds the port of an API server that listens until it is
// ready, and then releases it. One that is not ready after a minute, or when ctx
// ends, is released all the same, and the error says why.
func ReleaseReadyAPIServer(ctx context.Context, root layout.Root, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	pair := root.Certificate(layout.CertControllerManagerClient)
	ready := &units.Probe{
		URL: "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) + "/readyz",
		CA:  root.Trust(layout.CAK8sServer), Cert: pair.Cert, Key: pair.Key,
	}
	return errors.Join(holdUntil(ctx, port, ready.Ask), netcfg.ReleasePorts())
}

// holdUntil renews the hold until ready returns no error.
func holdUntil(ctx context.Context, port uint16, ready func(context.Context) error) error {
	look := time.NewTicker(holdPause)
	defer look.Stop()
	var held time.Time
	for {
		if time.Since(held) > holdLease/4 {
			if err := netcfg.HoldPort(port, holdLease); err != nil {
				return err
			}
			held = time.Now()
		}
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("port %d is left to others before the server is ready: %w", port, err)
		case <-look.C:
		}
	}
}

// linkProgram makes the link by which units find this program. Its own path may
// change from one version to the next, which is no reason to restart them.
func (h *Host) linkProgram() error {
	program, err := os.Executable()
	if err == nil {
		_, err = os.Stat(program) // it may have been replaced since it was started
	}
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	link := h.root.Program()
	if now, err := os.Readlink(link); err == nil && now == program {
		return nil
	}
	if err := atomicfile.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return err
	}
	return atomicfile.Symlink(program, link)
}

// applyUnits is the units' Apply, once they find this program.
func (h *Host) applyUnits(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	if err := h.linkProgram(); err != nil {
		h.log.Warn("an API server that starts answers others before it is ready", "because", err)
	}
	return h.systemd.Apply(ctx, changes, rep)
}
