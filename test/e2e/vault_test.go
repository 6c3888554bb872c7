package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// newestVault is the version that end-to-end tests use; the tests of pki/vault
// use each.
const newestVault = "v1.21.0"

// TestVaultCluster goes the road of a cluster whose certificates come from
// Vault: prepared by an administrator, three hosts enrolled, one cluster, every
// certificate proven; a CA changed under load; Vault gone and back.
func TestVaultCluster(t *testing.T) {
	sideBySide(t)
	c := newTrio(t, newestVault, "", "control-plane", "etcd", "worker")

	t.Logf("bootstrap:\n%s", c.mustAdmin("pki", "bootstrap"))
	if out := c.mustAdmin("pki", "bootstrap", "-o", "json"); !strings.Contains(out, `"applied": 0`) {
		t.Errorf("a second bootstrap changes something:\n%s", out)
	}
	c.enrol()
	start := time.Now()
	c.apply()
	t.Logf("three hosts applied after %s", time.Since(start).Round(100*time.Millisecond))
	c.nodesReady(2 * time.Minute)
	members, err := c.etcdctl(c.hosts[0], "member", "list")
	if err != nil || strings.Count(members, "started") != 3 {
		t.Fatalf("etcd members (%v):\n%s", err, members)
	}
	c.converged(0)

	c.startAgents()
	for _, ca := range []string{"etcd-peer", "etcd-server", "k8s-server", "k8s-client", "front-proxy"} {
		t.Run("change "+ca, func(t *testing.T) { changeCA(t, c.with(t), ca) })
	}
}

// changeCA changes a CA while requests go on, and fails for each that fails.
func changeCA(t *testing.T, c *trio, ca string) {
	before := c.on(c.hosts[0], "cat", "/var/lib/nodeagent/pki/trust/"+ca+".crt")
	start := time.Now()
	load := c.startLoad()
	var rotating errgroup.Group
	rotating.Go(func() error {
		out, err := c.admin("certs", "rotate-ca", ca)
		t.Logf("rotate-ca %s (%v):\n%s", ca, err, out)
		return err
	})
	// Hosts ask Vault every two minutes while nothing happens; who is in a hurry
	// says so.
	c.until(time.Minute, "the second authority", func() error {
		c.reloadAgents()
		for _, h := range c.hosts {
			if out := c.on(h, "cat", "/var/lib/nodeagent/pki/trust/"+ca+".crt"); strings.Count(out, "BEGIN") < 2 {
				return fmt.Errorf("host %s trusts one authority still", h.Name())
			}
		}
		return nil
	})
	err := rotating.Wait()
	load.report(t, fmt.Sprintf("%s: changed in %s", ca, time.Since(start).Round(time.Second)))
	if err != nil {
		t.Error(err)
	}
	after := c.on(c.hosts[0], "cat", "/var/lib/nodeagent/pki/trust/"+ca+".crt")
	if after == before || strings.Count(after, "BEGIN") != 1 {
		t.Errorf("in the end the host trusts:\n%s", after)
	}
}
