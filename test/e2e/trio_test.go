package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/lab"
)

// trio is a cluster of three hosts, each with every role, whose certificates
// come from a Vault on a host of its own.
type trio struct {
	t     *testing.T
	ctx   context.Context
	lab   *lab.Lab
	hosts []*lab.Mercury
	vault *lab.Mercury
	token string // of Vault's root

	personEnds time.Time // the certificate of a person
}

// trioCluster is the fleet's cluster.toml; %s is what a test adds to [pki].
const trioCluster = `
[cluster]
name = "trio"

[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
endpoint = "192.0.2.11:6443"

[pki]
issuer = "vault"
%s

[pki.vault]
address = "https://192.0.2.5:8200"
ca_file = "/etc/nodeagent/vault-ca.crt"

[firewall.allow.lan]
ports = [22, 2379, 2380, 6443, 10250]
from = ["192.0.2.0/24"]
`

// trioHost is a host's file; the number is the last of its address.
const trioHost = `
[host]
roles = [%s]
address = "192.0.2.%d"
pod_range = "10.244.%d.0/24"

[network.link.eth0]
addresses = ["192.0.2.%d/24"]

[[network.route]]
destination = "default"
via = "192.0.2.254"
device = "eth0"
`

const (
	vaultPath  = "/usr/local/bin/vault"
	vaultState = "/var/lib/vault"
)

// newTrio boots the hosts, bare but for the fleet, and a Vault of the version
// that knows nothing of them yet.
func newTrio(t *testing.T, version, pki string, roles ...string) *trio {
	t.Helper()
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute+3*soak(t))
	t.Cleanup(cancel)
	c := &trio{t: t, ctx: ctx, lab: l}
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("192.0.2.254/24")); err != nil {
		t.Fatal(err)
	}
	ca := c.startVault(version)
	for n := 1; n <= 3; n++ {
		h, err := l.AddMember(ctx, fmt.Sprintf("n%d", n), "lan")
		if err != nil {
			t.Fatal(err)
		}
		c.hosts = append(c.hosts, h)
	}
	for _, h := range append([]*lab.Mercury{c.vault}, c.hosts...) {
		c.put(h, "/etc/nodeagent/vault-ca.crt", ca)
		c.put(h, "/etc/nodeagent/fleet/cluster.toml", fmt.Sprintf(trioCluster, pki))
		for n := 1; n <= 3; n++ {
			text := fmt.Sprintf(trioHost, `"`+strings.Join(roles, `", "`)+`"`, 10+n, n, 10+n)
			text, err := lab.WithDifferences(text)
			if err != nil {
				t.Fatal(err)
			}
			c.put(h, fmt.Sprintf("/etc/nodeagent/fleet/n%d.toml", n), text)
		}
	}
	for n, h := range c.hosts {
		if err := h.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		c.address(h, 11+n)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.explain()
		}
	})
	return c
}

// startVault makes the host of the Vault, starts it there and returns the CA of
// its own certificate.
func (c *trio) startVault(version string) (ca string) {
	c.t.Helper()
	program, err := c.lab.Builder.Vault(c.ctx, version)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.vault, err = c.lab.AddMember(c.ctx, "vault", "lan"); err != nil {
		c.t.Fatal(err)
	}
	if err := errors.Join(c.vault.PutCopy(program, vaultPath), c.vault.Boot(c.ctx)); err != nil {
		c.t.Fatal(err)
	}
	c.address(c.vault, 5)
	c.runVault()
	var said struct {
		CAFile    string `json:"ca_file"`
		RootToken string `json:"root_token"`
	}
	c.until(time.Minute, "Vault to answer", func() error {
		out, err := c.vault.Exec(c.ctx, "cat", "/run/vault.json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &said)
		}
		return err
	})
	c.token = said.RootToken
	return c.on(c.vault, "cat", said.CAFile)
}

// runVault starts the Vault over what it has kept, and stopVault stops it.
func (c *trio) runVault() {
	c.t.Helper()
	c.on(c.vault, "systemd-run", "--quiet", "--unit=vault", "--property=StandardOutput=truncate:/run/vault.json", "--property=StandardError=journal",
		vaultPath, "-dir", vaultState, "-listen", "192.0.2.5:8200", "-san", "192.0.2.5")
}

func (c *trio) stopVault() {
	c.t.Helper()
	c.on(c.vault, "systemctl", "stop", "vault.service")
}

// address gives a host the address by which it is first reached, as the
// provider's set-up would.
func (c *trio) address(h *lab.Mercury, last int) {
	c.t.Helper()
	c.on(h, "ip", "address", "add", fmt.Sprintf("192.0.2.%d/24", last), "dev", "eth0")
	c.on(h, "ip", "link", "set", "eth0", "up")
}

func (c *trio) put(h *lab.Mercury, path, text string) {
	c.t.Helper()
	if err := h.PutFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// on runs a command on a host, which must succeed.
func (c *trio) on(h *lab.Mercury, args ...string) string {
	c.t.Helper()
	out, err := h.Exec(c.ctx, args...)
	if err != nil {
		c.t.Fatalf("%v", err)
	}
	return out
}

// admin runs nodeagent where the administrator sits, with Vault's root token.
func (c *trio) admin(args ...string) (string, error) {
	return c.vault.Exec(c.ctx, append([]string{"env", "VAULT_TOKEN=" + c.token, "nodeagent"}, args...)...)
}

func (c *trio) mustAdmin(args ...string) string {
	c.t.Helper()
	out, err := c.admin(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *trio) until(limit time.Duration, what string, check func() error) {
	c.t.Helper()
	if err := lab.Within(c.ctx, limit, what, func(context.Context) error { return check() }); err != nil {
		c.t.Fatal(err)
	}
}

// each runs f for every host at once.
func (c *trio) each(what string, f func(h *lab.Mercury) error) {
	c.t.Helper()
	var all errgroup.Group
	for _, h := range c.hosts {
		all.Go(func() error {
			if err := f(h); err != nil {
				return fmt.Errorf("%s on %s: %w", what, h.Name(), err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		c.t.Fatal(err)
	}
}

// enrol lets every host into Vault with a token of its own.
func (c *trio) enrol() {
	c.t.Helper()
	c.each("enrol", func(h *lab.Mercury) error {
		token, err := c.admin("pki", "token", h.Name())
		if err != nil {
			return err
		}
		_, err = h.ExecInput(c.ctx, strings.NewReader(token), "nodeagent", "enroll", "-")
		return err
	})
}

// nodeagent runs nodeagent on a host; its error has what the command printed.
func (c *trio) nodeagent(ctx context.Context, h *lab.Mercury, args ...string) (string, error) {
	out, err := h.Nodeagent(ctx, args...)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return out, err
}

// apply makes every host what the fleet says.
func (c *trio) apply() {
	c.t.Helper()
	c.each("apply", func(h *lab.Mercury) error { _, err := c.nodeagent(c.ctx, h, "apply"); return err })
}

// startAgents starts the agent on every host, now and at each boot.
func (c *trio) startAgents() { c.t.Helper(); c.agents("enable", "--quiet", "--now") }

// reloadAgents has every host's agent read its fleet and look at everything at
// once.
func (c *trio) reloadAgents() { c.t.Helper(); c.agents("reload") }

func (c *trio) agents(verb ...string) {
	c.t.Helper()
	c.each(verb[0]+" the agent", func(h *lab.Mercury) error {
		_, err := h.Exec(c.ctx, slices.Concat([]string{"systemctl"}, verb, []string{"nodeagent.service"})...)
		return err
	})
}

// converged waits until a plan of every host is empty; with no limit it must be
// empty now.
func (c *trio) converged(limit time.Duration) {
	c.t.Helper()
	c.each("plan", func(h *lab.Mercury) error {
		empty := func(ctx context.Context) error { _, err := c.nodeagent(ctx, h, "plan", "--exit-code"); return err }
		if limit == 0 {
			return empty(c.ctx)
		}
		return lab.Within(c.ctx, limit, "an empty plan", empty)
	})
}

// with is the cluster in the hands of a subtest, which fails itself alone.
func (c *trio) with(t *testing.T) *trio {
	other := *c
	other.t = t
	return &other
}

// etcdctl runs etcdctl on a host.
func (c *trio) etcdctl(h *lab.Mercury, args ...string) (string, error) {
	return h.Exec(c.ctx, "sh", "-c", ". /etc/profile; etcdctl "+strings.Join(args, " "))
}

// nodesReady waits until every host's node is Ready.
func (c *trio) nodesReady(limit time.Duration) {
	c.t.Helper()
	c.until(limit, "every node to be Ready", func() error {
		out, err := c.hosts[0].Kubectl(c.ctx, "get", "nodes", "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		if err == nil && strings.Count(out, "=True") != len(c.hosts) {
			err = fmt.Errorf("nodes: %s", out)
		}
		return err
	})
}

// explain logs what the hosts look like after a failure.
func (c *trio) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, h := range c.hosts {
		for _, command := range []string{"nodeagent status", "journalctl -u nodeagent -n 40 --no-pager -o cat", "journalctl -u nodeagent-etcd -n 15 --no-pager -o cat"} {
			out, err := h.Exec(ctx, "sh", "-c", command)
			c.t.Logf("%s: %s (%v):\n%s", h.Name(), command, err, out)
		}
	}
	for _, unit := range []string{"vault", "s3"} {
		out, err := c.vault.Exec(ctx, "journalctl", "-u", unit, "-n", "20", "--no-pager", "-o", "cat")
		c.t.Logf("%s (%v):\n%s", unit, err, out)
	}
}
