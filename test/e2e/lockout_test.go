package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

const lockoutCluster = "[cluster]\nname = \"lockout\"\n"

// lockoutHost is a host without roles, its network and the firewall as written.
func lockoutHost(address, ssh string) string {
	return fmt.Sprintf("[host]\nroles = []\naddress = %q\n[network.link.eth0]\naddresses = [\"%s/24\"]\n"+
		"[[network.route]]\ndestination = \"default\"\nvia = \"203.0.113.1\"\n[firewall.allow.ssh]\nports = [%s]\n", address, address, ssh)
}

type lockout struct {
	t   *testing.T
	ctx context.Context
	*lab.Mercury
}

func (h lockout) must(args ...string) string {
	h.t.Helper()
	out, err := h.Exec(h.ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h lockout) spec(text string) {
	h.t.Helper()
	for name, content := range map[string]string{"cluster.toml": lockoutCluster, "bee.toml": text} {
		if err := h.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
}

// network is what tools of others say of it.
func (h lockout) network() string {
	h.t.Helper()
	return h.must("sh", "-c", "ip -4 -o address; ip -4 route; nft --stateless list ruleset")
}

// backTo waits until the network is as it was and nothing is left pending.
func (h lockout) backTo(before string, limit time.Duration) {
	h.t.Helper()
	if err := lab.Within(h.ctx, limit, "the network to go back", func(context.Context) error {
		out, err := h.Exec(h.ctx, "sh", "-c", "test ! -e /var/lib/nodeagent/confirm/attempt.json && test -e /var/lib/nodeagent/confirm/rejected.json")
		if now := h.network(); err != nil || now != before {
			return fmt.Errorf("%s %v; it is\n%s\nand was\n%s", out, err, now, before)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}

// TestLockout applies specs that cut the way in.
func TestLockout(t *testing.T) {
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		t.Fatal(err)
	}
	host, err := l.AddHost(ctx, lab.HostOptions{Name: "bee", Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	h := lockout{t, ctx, &lab.Mercury{Host: host}}
	if err := h.PutAgent(ctx); err != nil {
		t.Fatal(err)
	}
	good := lockoutHost("203.0.113.10", "22")
	bad := strings.Replace(lockoutHost("192.0.2.10", "2222"), "203.0.113.1\"", "192.0.2.1\"", 1)
	h.spec(good)
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	h.must("nodeagent", "apply")
	before := h.network()

	h.spec(bad)
	h.must("nodeagent", "apply", "--confirm", "5s")
	if h.network() == before {
		t.Fatal("the spec changed nothing")
	}
	h.backTo(before, 15*time.Second)
	t.Log("silence: it went back")

	out, _ := h.Exec(ctx, "sh", "-c", "nodeagent apply --confirm 6s >/dev/null 2>&1 & p=$!; until test -e /var/lib/nodeagent/confirm/attempt.json; do :; done; kill -9 $p; echo killed")
	if !strings.Contains(out, "killed") {
		t.Fatalf("apply was not killed: %s", out)
	}
	h.backTo(before, 15*time.Second)
	t.Log("kill -9: it went back")

	h.must("nodeagent", "apply", "--confirm", "2m")
	if err := h.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	h.backTo(before, 30*time.Second)
	t.Log("reboot: it went back")

	h.must("systemctl", "start", "nodeagent.service")
	if now := h.network(); now != before {
		t.Errorf("run tried the rejected spec:\n%s", now)
	}
	if status, err := h.Exec(ctx, "nodeagent", "status"); err != nil || !strings.Contains(status, "is not tried again") {
		t.Errorf("status does not tell (%v):\n%s", err, status)
	}
	h.must("systemctl", "stop", "nodeagent.service")

	h.must("nodeagent", "apply", "--confirm", "60s")
	changed := h.network()
	if out, err := h.Exec(ctx, "nodeagent", "confirm"); err == nil {
		t.Errorf("a session that is no connection confirmed: %s", out)
	}
	h.must("cp", "/bin/bash", "/usr/local/bin/sshd")
	h.must("/usr/local/bin/sshd", "-c", "nodeagent confirm; exit $?")
	h.must("sh", "-c", "test ! -e /var/lib/nodeagent/confirm/attempt.json && test ! -e /etc/systemd/system/nodeagent.rollback.timer")
	if now := h.network(); now != changed || now == before {
		t.Errorf("confirmed, and yet it is\n%s", now)
	}

	// Nested: the second attempt goes back to the last confirmed network.
	h.spec(lockoutHost("203.0.113.20", "22"))
	h.must("nodeagent", "apply", "--confirm", "60s")
	h.spec(lockoutHost("203.0.113.30", "23"))
	h.must("nodeagent", "apply", "--confirm", "5s")
	h.backTo(changed, 15*time.Second)

	// The connection is older than the change.
	out, err = h.Exec(ctx, "/usr/local/bin/sshd", "-c", "nodeagent apply --confirm 5s && nodeagent confirm; exit $?")
	if err == nil || !strings.Contains(err.Error(), "before the change") {
		t.Errorf("an old connection confirmed: %s (%v)", out, err)
	}
	h.backTo(changed, 15*time.Second)
}
