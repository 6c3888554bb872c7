package e2e

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// runGivesWay stops etcd in the middle of what it does, so that the agent waits for
// an API server that cannot be ready, and has a command that needs the lock meanwhile:
// one that mends etcd needs the same.
func runGivesWay(t *testing.T, h *host) {
	signal := func(name, component string) {
		h.must("systemctl", "kill", "--signal="+name, "--kill-whom=main", layout.Unit(component))
	}
	signal("SIGSTOP", layout.Etcd)
	defer signal("SIGCONT", layout.Etcd)
	signal("SIGKILL", layout.ControllerManager) // it needs the API server
	lock := filepath.Join(onHost.Runtime(), "cluster.lock")
	h.until(repairLimit, "the agent to wait with the lock in its hands", func() error {
		_, err := h.Exec(h.ctx, "flock", "--timeout", "5", lock, "true")
		switch exitCode(err) {
		case 0:
			return errors.New("the lock was to be had within 5 s")
		case 1:
			return nil
		}
		return err
	})
	start := time.Now()
	out := h.agent("snapshot", "restore", "--abort")
	t.Logf("after %s: %s", time.Since(start).Round(time.Millisecond), out)
	signal("SIGCONT", layout.Etcd)
	h.settled()
}
