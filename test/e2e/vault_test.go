package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/lab"
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

	c.each("start the agent", func(h *lab.Mercury) error {
		_, err := h.Exec(c.ctx, "systemctl", "start", "nodeagent.service")
		return err
	})
	for _, ca := range []string{"etcd-peer", "etcd-server", "k8s-server", "k8s-client", "front-proxy"} {
		t.Run("change "+ca, func(t *testing.T) { changeCA(t, c, ca) })
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
		c.each("reload the agent", func(h *lab.Mercury) error {
			_, err := h.Exec(c.ctx, "systemctl", "reload", "nodeagent.service")
			return err
		})
		for _, h := range c.hosts {
			if out := c.on(h, "cat", "/var/lib/nodeagent/pki/trust/"+ca+".crt"); strings.Count(out, "BEGIN") < 2 {
				return fmt.Errorf("host %s trusts one authority still", h.Name())
			}
		}
		return nil
	})
	err := rotating.Wait()
	requests, moved, failures := load.end()
	t.Logf("%s: changed in %s; %d requests meanwhile, %d tries at another host, %d failures", ca, time.Since(start).Round(time.Second), requests, moved, len(failures))
	if err != nil {
		t.Error(err)
	}
	if len(failures) > 0 {
		t.Errorf("requests that failed, by kind:\n%s", strings.Join(kinds(failures), "\n"))
	}
	after := c.on(c.hosts[0], "cat", "/var/lib/nodeagent/pki/trust/"+ca+".crt")
	if after == before || strings.Count(after, "BEGIN") != 1 {
		t.Errorf("in the end the host trusts:\n%s", after)
	}
}

// kinds groups failures that say the same at different moments, each with its
// count and its first moment.
func kinds(failures []string) []string {
	count, first := map[string]int{}, map[string]string{}
	var order []string
	for _, f := range failures {
		moment, what, _ := strings.Cut(f, " ")
		if count[what]++; count[what] == 1 {
			first[what] = moment
			order = append(order, what)
		}
	}
	for i, what := range order {
		order[i] = fmt.Sprintf("%6d times, first %s: %s", count[what], first[what], what)
	}
	return order
}
