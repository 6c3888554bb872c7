package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// admin is where the administrator sits: behind the router, so that the way in
// needs the host's address, its default route and its open port.
const admin = "198.51.100.7"

// lockout is a host whose network a test changes.
type lockout struct {
	t   *testing.T
	ctx context.Context
	*lab.Mercury
}

// must returns the output of a command on the host, which must succeed.
func (h lockout) must(args ...string) string {
	h.t.Helper()
	out, err := h.Exec(h.ctx, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// reached is a host that tests come into as a person would: over a new TCP
// connection to its own sshd.
type reached struct {
	lockout
	lab *lab.Lab
	key string
}

// sshArgs are what every ssh of the tests has; no connection is ever shared.
func sshArgs(key string) []string {
	return []string{
		"ssh", "-i", key, "-S", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=1",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
	}
}

// newReached boots a host with nodeagent and sshd on the switch "lan".
func newReached(t *testing.T, ctx context.Context, l *lab.Lab, name, key string) reached {
	t.Helper()
	host, err := l.AddHost(ctx, lab.HostOptions{Name: name, Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := reached{lockout{t, ctx, &lab.Mercury{Host: host}}, l, key}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{"/root/.ssh/authorized_keys": public, "/root/.ssh/id": private} {
		if err := r.PutFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.PutAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	r.must("systemctl", "enable", "--now", "ssh.service")
	return r
}

// makeKey makes the administrator's key.
func makeKey(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "id")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return key
}

// addAdmin gives the wire the router's and the administrator's addresses.
func addAdmin(t *testing.T, ctx context.Context, l *lab.Lab) {
	t.Helper()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.OnWire(ctx, "ip", "address", "add", admin+"/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
}

// ssh runs a command on the host over a new connection from the administrator.
func (r reached) ssh(address, command string) (string, error) {
	args := append(sshArgs(r.key), "-b", admin, "root@"+address, command)
	return r.lab.OnWire(r.ctx, args...)
}

// fleet writes the files of a fleet.
func (r reached) fleet(files map[string]string) {
	r.t.Helper()
	for name, content := range files {
		if err := r.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// network is what tools of others say of it, with some sysctls.
func (r reached) network() string {
	r.t.Helper()
	return r.must("sh", "-c", "ip -4 -o address | grep -v ' lo ' | sed 's,^[0-9]*: ,,' | sort; ip -4 route; ip -o rule; nft --stateless list ruleset; "+
		"sysctl net.ipv4.ip_forward net.ipv4.conf.eth0.forwarding net.ipv4.conf.eth0.rp_filter net.ipv4.conf.all.accept_redirects")
}

// until waits for a condition.
func (r reached) until(limit time.Duration, what string, check func() error) {
	r.t.Helper()
	if err := lab.Within(r.ctx, limit, what, func(context.Context) error { return check() }); err != nil {
		r.t.Fatal(err)
	}
}

// backTo waits until the network is as it was, nothing is left pending, and
// nodeagent has found so too.
func (r reached) backTo(before string, limit time.Duration) {
	r.t.Helper()
	r.until(limit, "the network to go back", func() error {
		out, err := r.Exec(r.ctx, "sh", "-c", "test ! -e /var/lib/nodeagent/confirm/attempt.json && grep -q '\"proved\": true' /var/lib/nodeagent/confirm/rejected.json")
		if now := r.network(); err != nil || now != before {
			return fmt.Errorf("%s %v; it is\n%s\nand was\n%s", out, err, now, before)
		}
		return nil
	})
}

// refused checks that a command fails, and why.
func (r reached) refused(why string, out string, err error) {
	r.t.Helper()
	if err == nil || !strings.Contains(out+err.Error(), why) {
		r.t.Errorf("not refused with %q: %s (%v)", why, out, err)
	}
}
