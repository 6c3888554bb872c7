package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// goesOnAlone loses two of the three hosts, goes on with the one that is left,
// and has the others join again when they come back with the data of before. At
// no moment do they serve that.
func goesOnAlone(t *testing.T, c *trio) {
	first, others := c.hosts[0], c.hosts[1:]
	for _, h := range others {
		if err := h.Kill(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	blocks := guide(t, "disaster-recovery.md", "One host is left")
	if len(blocks) != 2 || len(blocks[1]) != len(others) {
		t.Fatalf("the guide has %d blocks, not the recovery and each that joins again", len(blocks))
	}
	start := time.Now()
	c.follow(blocks[0])
	c.until(3*time.Minute, "the API server", func() error { _, err := first.Kubectl(c.ctx, "get", "--raw", "/readyz"); return err })
	c.kubectl(first, "create", "configmap", "alone", "--from-literal=written=alone")
	t.Logf("writes again after %s", time.Since(start).Round(time.Second))

	for _, h := range others {
		// etcd's unit waits.
		if err := h.SwitchOn(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range others {
		c.until(3*time.Minute, "the agent of "+h.Name()+" to say that its data was replaced", func() error {
			_, err := h.Exec(c.ctx, "test", "-s", onHost.EtcdReplaced())
			return err
		})
		if out, err := h.Exec(c.ctx, "systemctl", "is-active", layout.Unit(layout.Etcd)); err == nil {
			t.Errorf("etcd runs on %s with the data of before: %s", h.Name(), out)
		}
	}
	c.follow(blocks[1])
	members, err := c.etcdctl(first, "member", "list")
	if err != nil || strings.Count(members, "started") != 3 {
		t.Errorf("etcd members (%v):\n%s", err, members)
	}
	c.nodesReady(3 * time.Minute)
	c.each("ask the API server", func(h *lab.Mercury) error {
		out, err := h.Kubectl(c.ctx, "get", "configmap", "alone", "-o", "jsonpath={.data.written}")
		if err == nil && out != "alone" {
			err = fmt.Errorf("configmap alone says %q", out)
		}
		return err
	})
	c.converged(3 * time.Minute)
	t.Logf("three members again after %s", time.Since(start).Round(time.Second))
}
