package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// moveCluster is the cluster.toml of a cluster of one host; %s is its [pki].
const moveCluster = `
[cluster]
name = "lone"

[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"

%s

[firewall.allow.lan]
ports = [22, 2379, 6443]
from = ["192.0.2.0/24"]
`

const (
	moveLocal = `[pki]
issuer = "local"`
	moveVault = `[pki]
issuer = "vault"

[pki.vault]
address = "https://192.0.2.5:8200"
ca_file = "/etc/nodeagent/vault-ca.crt"`
)

// TestMoveToVault takes a cluster of one host, in use, from its local issuer to
// Vault by the commands of docs/guides/local-to-vault.md: the node stays
// Ready, every request is answered, nothing is issued anew and no component is
// restarted for the move. Then each CA is changed for one of Vault's own, what the local issuer has
// left is forgotten, and there is nothing to do.
func TestMoveToVault(t *testing.T) {
	sideBySide(t)
	c := newLone(t)
	h := c.hosts[0]
	c.apply()
	c.nodesReady(2 * time.Minute)
	c.startAgents()
	c.converged(time.Minute)
	move, end := guide(t, "local-to-vault.md", "The move"), guide(t, "local-to-vault.md", "The end of the local keys")
	change := guide(t, "rotate-ca.md", "")
	if len(move) != 1 || len(end) != 1 || len(change) != 2 {
		t.Fatalf("the guides have %d, %d and %d blocks, not 1, 1 and 2", len(move), len(end), len(change))
	}

	ready, pids := c.readySince(), c.processes()
	before := c.serials()
	load, start := c.startLoad(), time.Now()
	for _, line := range move[0] {
		out := c.asAdministrator(line.command)
		switch {
		case strings.HasPrefix(line.command, "cp -a "):
			c.put(h, "/root/fleet.vault/cluster.toml", fmt.Sprintf(moveCluster, moveVault))
		case strings.Contains(line.command, "--plan"):
			for _, ca := range []string{"etcd-server", "etcd-peer", "k8s-server", "k8s-client", "front-proxy"} {
				if want := "create authority nodeagent/lone/" + ca; !strings.Contains(out, want) {
					t.Errorf("the plan has no %q", want)
				}
			}
		}
	}
	c.converged(0)
	load.report(t, fmt.Sprintf("moved in %s", time.Since(start).Round(time.Second)))
	if now := c.readySince(); now != ready {
		t.Errorf("the node has not been Ready all the while, but since %s; it was since %s", now, ready)
	}
	for unit, pid := range c.processes() {
		if pids[unit] != pid {
			t.Errorf("the move has restarted %s", unit)
		}
	}
	after := c.serials()
	for name, serial := range before {
		if after[name] != serial {
			t.Errorf("certificate %s was issued anew", name)
		}
	}
	if out := c.on(h, "nodeagent", "status"); !strings.Contains(out, "CA keys of the local issuer still lie on this host") {
		t.Errorf("status tells of no key of the local issuer:\n%s", out)
	}

	load, start = c.startPatientLoad(lonePatience), time.Now()
	c.asAdministrator(change[0][0].command)
	var all []string // together, so that what has to restart does so for all
	for _, line := range change[1] {
		all = append(all, line.command)
	}
	c.hurried(all...)
	for _, line := range end[0] {
		c.asAdministrator(line.command)
	}
	load.report(t, fmt.Sprintf("every CA changed and the local issuer forgotten in %s", time.Since(start).Round(time.Second)))
	// The key of snapshots is the host's own.
	if out := c.on(h, "sh", "-c", "cd /var/lib/nodeagent; ls -d ca 2>/dev/null; grep -rl 'PRIVATE KEY' . --exclude-dir=pki --exclude-dir=etcd --exclude=snapshot.key || true"); out != "" {
		t.Errorf("of the local issuer there is left:\n%s", out)
	}
	c.converged(0)
	// A kubelet that was restarted for another CA may have said for a moment that
	// it is not.
	c.nodesReady(time.Minute)
}

// newLone boots a host whose issuer is the local one, and a Vault that it does not
// know of.
func newLone(t *testing.T) *trio {
	t.Helper()
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	c := &trio{t: t, ctx: ctx, lab: l}
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("192.0.2.254/24")); err != nil {
		t.Fatal(err)
	}
	ca := c.startVault(newestVault)
	h, err := l.AddMember(ctx, "n1", "lan")
	if err != nil {
		t.Fatal(err)
	}
	c.hosts = []*lab.Mercury{h}
	text, err := lab.WithDifferences(fmt.Sprintf(trioHost, `"control-plane", "etcd", "worker"`, 11, 1, 11))
	if err != nil {
		t.Fatal(err)
	}
	c.put(h, "/etc/nodeagent/vault-ca.crt", ca)
	c.put(h, "/etc/nodeagent/fleet/cluster.toml", fmt.Sprintf(moveCluster, moveLocal))
	c.put(h, "/etc/nodeagent/fleet/n1.toml", text)
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	c.address(h, 11)
	t.Cleanup(func() {
		if t.Failed() {
			c.explain()
		}
	})
	return c
}

// asAdministrator runs a command line on the first host, in root's own folder
// and with Vault's token. What it prints has neither that nor a key in it.
func (c *trio) asAdministrator(command string) string {
	c.t.Helper()
	out, err := c.administrator(command)
	c.said(command, out, err)
	return out
}

func (c *trio) administrator(command string) (string, error) {
	return c.hosts[0].Exec(c.ctx, "sh", "-c", "cd /root; export VAULT_TOKEN="+c.token+"; "+strings.ReplaceAll(command, "VAULT_TOKEN=…", "VAULT_TOKEN"))
}

func (c *trio) said(command, out string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	c.t.Logf("%s:\n%s", command, out)
	if strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, c.token) {
		c.t.Errorf("%s prints a secret", command)
	}
}

// hurried is asAdministrator for commands that wait for the agents, all at once,
// and has these look at Vault again and again instead of every two minutes.
func (c *trio) hurried(commands ...string) {
	c.t.Helper()
	var running sync.WaitGroup
	outs, errs := make([]string, len(commands)), make([]error, len(commands))
	for i, command := range commands {
		running.Go(func() { outs[i], errs[i] = c.administrator(command) })
	}
	done := make(chan struct{})
	go func() { defer close(done); running.Wait() }()
	pause := time.NewTicker(time.Second)
	defer pause.Stop()
	for {
		select {
		case <-done:
			for i, command := range commands {
				c.said(command, outs[i], errs[i])
			}
			return
		case <-pause.C:
			c.reloadAgents()
		}
	}
}

// readySince is when the first host's node became Ready, which it has been ever
// since.
func (c *trio) readySince() string {
	c.t.Helper()
	out, err := c.hosts[0].Kubectl(c.ctx, "get", "node", c.hosts[0].Name(), "-o",
		`jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastTransitionTime}{end}`)
	if err != nil || !strings.HasPrefix(out, "True ") {
		c.t.Fatalf("the node is %q (%v)", out, err)
	}
	return out
}

// serials are those of the first host's certificates, by name.
func (c *trio) serials() map[string]string {
	c.t.Helper()
	serials := map[string]string{}
	for line := range strings.Lines(c.on(c.hosts[0], "nodeagent", "certs", "list")) {
		if fields := strings.Split(line, "\t"); len(fields) == 6 && fields[4] != "" {
			serials[fields[0]] = fields[4]
		}
	}
	if len(serials) < 10 {
		c.t.Fatalf("only %d certificates are listed: %v", len(serials), serials)
	}
	return serials
}

// processes are those of the first host's components, by unit.
func (c *trio) processes() map[string]string {
	c.t.Helper()
	return mainPIDs(&host{Mercury: c.hosts[0], t: c.t, ctx: c.ctx})
}
