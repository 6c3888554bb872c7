package e2e

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/test/lab"
)

const vaultAgentGuide = "vault-agent.md"

// TestMoveFromVaultAgent takes a host that vault agent and hand-written units have
// kept, with a cluster in use, to nodeagent by docs/guides/vault-agent.md, as
// written: there, back again, and there for good. Objects, Secrets and tokens of
// before are good afterwards, the Deployment's pods run, the ports show
// certificates of nodeagent's CAs, and of the old nothing is left that could log in.
func TestMoveFromVaultAgent(t *testing.T) {
	sideBySide(t)
	steps := map[string][][]guideLine{}
	for section, blocks := range map[string]int{"Before": 2, "The move": 2, "The way back": 1, "Cleaning up": 2} {
		if steps[section] = guide(t, vaultAgentGuide, section); len(steps[section]) != blocks {
			t.Fatalf("section %q of the guide has %d blocks, not %d", section, len(steps[section]), blocks)
		}
	}
	c := newOld(t)
	h := c.hosts[0]
	c.engines()
	c.startOld()
	had := c.populate()

	c.put(h, "/etc/nodeagent/fleet/cluster.toml", fmt.Sprintf(oldCluster, fleetOf(t)))
	text, err := lab.WithDifferences(oldHostFile)
	if err != nil {
		t.Fatal(err)
	}
	c.put(h, "/etc/nodeagent/fleet/n1.toml", text)
	pids, admin := c.oldProcesses(), c.administratorToken()
	c.walk(admin, steps["Before"][1]) // behind the fleet
	if now := c.oldProcesses(); now != pids {
		t.Errorf("what is done before the move has restarted something: processes %q became %q", pids, now)
	}

	c.timed("there", func() { c.walk(admin, steps["The move"]...) })
	c.moved(had)
	c.timed("back", func() {
		c.walk(admin, steps["The way back"]...)
		c.until(2*time.Minute, "the old cluster", c.oldReady)
	})
	c.same(had, oldAdmin)
	if out := c.on(h, "systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", "nodeagent*"); out != "" {
		t.Errorf("back in the old cluster there still runs:\n%s", out)
	}
	c.timed("there again", func() { c.walk(admin, steps["The move"]...) })
	c.moved(had)

	c.walk(c.token, steps["Cleaning up"]...) // of what the guide's administrator may not touch, too
	c.gone(had)
	c.converged(0)
	if err := h.ScaleHello(c.ctx, 2, time.Minute); err != nil {
		t.Error(err)
	}
}

// oldCluster is the fleet's cluster.toml; %s is what the guide has.
const oldCluster = `
[cluster]
name = "lone"
%s`

const oldHostFile = `
[host]
roles = ["control-plane", "etcd", "worker"]
address = "192.0.2.11"
pod_range = "10.244.1.0/24"
`

// fleetOf is the part of a fleet that the guide shows.
func fleetOf(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/guides/" + vaultAgentGuide)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(content), "```toml\n")
	text, _, closed := strings.Cut(text, "```")
	if !ok || !closed {
		t.Fatal("the guide shows no fleet")
	}
	return strings.ReplaceAll(text, "https://vault.example.org:8200", "https://192.0.2.5:8200")
}

// administratorToken makes the token that docs/vault.md asks for, and no more.
func (c oldHost) administratorToken() string {
	c.t.Helper()
	var policies struct{ Administrator string }
	read(c.t, c.on(c.hosts[0], "nodeagent", "pki", "bootstrap", "--print-policy", "-o", "json"), &policies)
	client := c.vaultClient(c.token)
	if err := client.Sys().PutPolicyWithContext(c.ctx, "lone-administrator", policies.Administrator); err != nil {
		c.t.Fatal(err)
	}
	made, err := client.Auth().Token().CreateWithContext(c.ctx, &api.TokenCreateRequest{Policies: []string{"lone-administrator"}})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.Auth.ClientToken
}

// lineLimit is how long a line of the guide may take: "a few minutes" of waiting.
const lineLimit = 3 * time.Minute

// walk runs the lines of blocks as the host's root, with a token of Vault's. The
// line "reboot" switches the host off and on.
func (c oldHost) walk(token string, blocks ...[]guideLine) {
	c.t.Helper()
	h := c.hosts[0]
	for _, line := range slices.Concat(blocks...) {
		start := time.Now()
		if line.command == "reboot" {
			if err := h.Poweroff(c.ctx); err != nil {
				c.t.Fatal(err)
			}
			if err := h.Boot(c.ctx); err != nil {
				c.t.Fatal(err)
			}
			c.t.Logf("reboot (after %s)", time.Since(start).Round(time.Second))
			continue
		}
		ctx, cancel := context.WithTimeout(c.ctx, lineLimit)
		out, err := h.Exec(ctx, "sh", "-c", "cd /root; . /etc/profile; export VAULT_TOKEN="+token+"; "+strings.ReplaceAll(line.command, "VAULT_TOKEN=…", "VAULT_TOKEN"))
		cancel()
		line.check(c.t, out, err, time.Since(start))
		if strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, token) {
			c.t.Errorf("%s prints a secret", line.command)
		}
	}
}

// timed logs how long a way takes.
func (c oldHost) timed(way string, walk func()) {
	c.t.Helper()
	start := time.Now()
	walk()
	c.t.Logf("%s in %s", way, time.Since(start).Round(time.Second))
}

// startOld starts what the host's administrator has written.
func (c oldHost) startOld() {
	c.t.Helper()
	h, names := c.hosts[0], slices.Sorted(maps.Keys(oldUnits))
	c.on(h, append([]string{"systemctl", "enable", "--quiet"}, names...)...)
	c.on(h, "systemctl", "start", "vault-agent")
	c.until(time.Minute, "vault agent to render", func() error {
		for _, o := range oldCerts {
			if _, err := h.GetFile(oldPKI + "/" + o.name + ".crt"); err != nil {
				return err
			}
		}
		return nil
	})
	c.on(h, append([]string{"systemctl", "start"}, names...)...)
	c.until(2*time.Minute, "the old cluster", c.oldReady)
}

// old runs kubectl as the old administrator.
func (c oldHost) old(args ...string) (string, error) {
	return c.kubectlAs(oldAdmin, args...)
}

func (c oldHost) kubectlAs(config string, args ...string) (string, error) {
	return c.hosts[0].Exec(c.ctx, append([]string{"/opt/kubernetes/bin/kubectl", "--kubeconfig=" + config}, args...)...)
}

// oldReady is nil when the old cluster's node is ready.
func (c oldHost) oldReady() error {
	out, err := c.old("get", "node", "n1", "-o", `jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}`)
	if err == nil && !strings.HasPrefix(out, "True ") {
		err = fmt.Errorf("condition Ready is %q", out)
	}
	return err
}

// oldProcesses are the main processes of the old units.
func (c oldHost) oldProcesses() string {
	c.t.Helper()
	args := []string{"systemctl", "show", "--property=MainPID"}
	for _, name := range slices.Sorted(maps.Keys(oldUnits)) {
		args = append(args, name+".service")
	}
	return strings.Join(strings.Fields(c.on(c.hosts[0], args...)), " ")
}

// belongings is what the cluster had before it moved.
type belongings struct {
	uids  string
	token string // of a service account
	vault string // of the agent
}

// populate fills the old cluster with what has to be there after the move.
func (c oldHost) populate() (b belongings) {
	c.t.Helper()
	h := c.hosts[0]
	if err := h.ImportImages(c.ctx); err != nil {
		c.t.Fatal(err)
	}
	must := func(args ...string) string {
		c.t.Helper()
		out, err := c.old(args...)
		if err != nil {
			c.t.Fatal(err)
		}
		return out
	}
	c.until(time.Minute, "the default service account", func() error { _, err := c.old("get", "serviceaccount", "default"); return err })
	if _, err := h.ExecInput(c.ctx, strings.NewReader(lab.HelloObjects), "/opt/kubernetes/bin/kubectl", "--kubeconfig="+oldAdmin, "apply", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
	must("create", "secret", "generic", "kept", "--from-literal=word=readable")
	must("create", "serviceaccount", "keeper")
	b.token = must("create", "token", "keeper", "--duration=24h")
	b.vault = c.on(h, "cat", oldSink)
	if _, err := h.Hello(c.ctx); err != nil {
		c.t.Fatal(err)
	}
	b.uids = c.uids(oldAdmin)
	return b
}

// uids are those of the objects that nothing makes anew.
func (c oldHost) uids(config string) string {
	c.t.Helper()
	out, err := c.kubectlAs(config, "get", "namespace/default", "deployment/hello", "secret/kept", "serviceaccount/keeper", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.uid}{"\n"}{end}`)
	if err != nil || strings.Count(out, "\n") < 3 {
		c.t.Fatalf("objects: %v\n%s", err, out)
	}
	return out
}

// same checks that the cluster has what it had, and that its pod runs.
func (c oldHost) same(had belongings, config string) {
	c.t.Helper()
	if now := c.uids(config); now != had.uids {
		c.t.Errorf("objects were\n%sand are\n%s", had.uids, now)
	}
	word, err := c.kubectlAs(config, "get", "secret", "kept", "-o", "jsonpath={.data.word}")
	if err != nil || word != "cmVhZGFibGU=" {
		c.t.Errorf("the Secret says %q (%v)", word, err)
	}
	if _, err := c.hosts[0].Hello(c.ctx); err != nil {
		c.t.Error(err)
	}
}

// moved checks what the guide promises of the cluster.
func (c oldHost) moved(had belongings) {
	c.t.Helper()
	h := c.hosts[0]
	c.same(had, "/root/kubeconfig")
	c.podTrusts()
	who := c.on(h, "/opt/kubernetes/bin/kubectl", "--kubeconfig=/dev/null", "--server=https://192.0.2.11:6443",
		"--certificate-authority=/var/lib/nodeagent/pki/trust/k8s-server.crt", "--token="+had.token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if who != "system:serviceaccount:default:keeper" {
		c.t.Errorf("by its token of before the service account is %q", who)
	}
	for at, ca := range map[string]string{"192.0.2.11:6443": "k8s-server", "192.0.2.11:10250": "k8s-server", "192.0.2.11:2379": "etcd-server", "192.0.2.11:2380": "etcd-peer"} {
		pool, err := trustOn(h, ca)
		if err != nil {
			c.t.Fatal(err)
		}
		chain, err := c.shownAt(h, at)
		if err == nil {
			err = verify(chain, pool, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth})
		}
		if err != nil {
			c.t.Errorf("what %s shows is not of nodeagent's %s: %v", at, ca, err)
		}
	}
	out, err := c.old("--certificate-authority=/var/lib/nodeagent/pki/trust/k8s-server.crt", "get", "nodes")
	if err == nil || !strings.Contains(err.Error(), "Unauthorized") {
		c.t.Errorf("the old administrator is not refused (%v):\n%s", err, out)
	}
	if out, err := h.Exec(c.ctx, append([]string{"systemctl", "is-active"}, slices.Sorted(maps.Keys(oldUnits))...)...); err == nil {
		c.t.Errorf("old units run:\n%s", out)
	}
	c.converged(0)
}

// podTrusts checks that the pod was given the new CA when it started: one that
// started before the CA was told is right a minute later, and its program is not.
func (c oldHost) podTrusts() {
	c.t.Helper()
	uid, err := c.hosts[0].Kubectl(c.ctx, "get", "pod", "-l", "app=hello", "-o", "jsonpath={.items[0].metadata.uid}")
	if err != nil {
		c.t.Fatal(err)
	}
	pod := c.on(c.hosts[0], "sh", "-c", "cat /var/lib/kubelet/pods/"+uid+"/volumes/kubernetes.io~projected/kube-api-access-*/ca.crt")
	if host := c.on(c.hosts[0], "cat", "/var/lib/nodeagent/pki/trust/k8s-server.crt"); strings.TrimSpace(pod) != strings.TrimSpace(host) {
		c.t.Errorf("the pod trusts\n%s\nand the host\n%s", pod, host)
	}
}

// gone checks that of the old nothing is left that works.
func (c oldHost) gone(had belongings) {
	c.t.Helper()
	h := c.hosts[0]
	for _, dir := range []string{"/etc/vault-agent", "/etc/kubernetes", "/var/lib/etcd", "/root/old.db"} {
		if out, err := h.Exec(c.ctx, "ls", "-d", dir); err == nil {
			c.t.Errorf("there is still %s", out)
		}
	}
	find := []string{"find", "/etc/systemd/system", "-false"}
	for name := range oldUnits {
		find = append(find, "-o", "-name", name+".service")
	}
	if out := c.on(h, find...); out != "" {
		c.t.Errorf("units are left: %s", out)
	}
	agent := c.vaultClient(had.vault)
	if _, err := agent.Logical().WriteWithContext(c.ctx, "pki-k8s/issue/admin", map[string]any{"common_name": "admin"}); err == nil {
		c.t.Error("the agent's token still gets certificates")
	}
	root := c.vaultClient(c.token)
	if _, err := root.Logical().WriteWithContext(c.ctx, "auth/approle/role/n1/secret-id", nil); err == nil {
		c.t.Error("the host's old login is still there")
	}
	for _, engine := range []string{"pki-etcd", "pki-k8s"} {
		if answer, err := root.Logical().ListWithContext(c.ctx, engine+"/roles"); err == nil && answer != nil {
			c.t.Errorf("%s still signs", engine)
		}
	}
	if answer, err := root.Logical().ReadWithContext(c.ctx, "kv/data/k8s/lone"); err == nil && answer != nil {
		c.t.Error("the keys still lie in the old place")
	}
}
