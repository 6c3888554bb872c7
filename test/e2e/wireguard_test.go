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

const meshCluster = "[cluster]\nname = \"mesh\"\n[network.wireguard]\nrange = \"10.9.0.0/24\"\n"

// meshHost is a host without roles, in the mesh with the given public key.
func meshHost(n int, key string) string {
	return fmt.Sprintf("[host]\nroles = []\naddress = \"203.0.113.%[1]d\"\n[network.link.eth0]\naddresses = [\"203.0.113.%[1]d/24\"]\n"+
		"[wireguard]\naddress = \"10.9.0.%[1]d\"\nendpoint = \"203.0.113.%[1]d:51820\"\npublic_key = %[2]q\n", n, key)
}

// testMeshInUserspace: on hosts whose kernel has no WireGuard the mesh is a
// program, a service of its own. It outlives the agent, comes back when it is
// killed, and goes when the spec drops it.
func testMeshInUserspace(t *testing.T) {
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		t.Fatal(err)
	}
	hosts := map[string]lockout{}
	keys := map[string]string{}
	for _, name := range []string{"bee", "cee"} {
		made, err := l.AddHost(ctx, lab.HostOptions{Name: name, Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
		if err != nil {
			t.Fatal(err)
		}
		h := lockout{t, ctx, &lab.Mercury{Host: made}}
		if err := h.PutAgent(ctx); err != nil {
			t.Fatal(err)
		}
		if err := h.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		hosts[name] = h
		// Before there is any fleet.
		keys[name] = strings.TrimSpace(h.must("sh", "-c", "nodeagent wireguard key 2>/dev/null"))
	}
	bee, cee := hosts["bee"], hosts["cee"]
	if _, err := bee.Exec(ctx, "sh", "-c", "ip link add probe0 type wireguard && ip link del probe0"); err == nil {
		t.Skip("this kernel has WireGuard: no program is needed")
	}
	fleet := map[string]string{"cluster.toml": meshCluster, "bee.toml": meshHost(10, keys["bee"]), "cee.toml": meshHost(20, keys["cee"])}
	for _, h := range hosts {
		for name, content := range fleet {
			if err := h.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out := h.must("nodeagent", "plan"); !strings.Contains(out, "wireguard in userspace") {
			t.Errorf("the plan does not say that the device is in userspace:\n%s", out)
		}
		h.must("nodeagent", "apply")
		h.must("systemctl", "start", "nodeagent.service")
	}
	bee.must("ping", "-c1", "-W10", "10.9.0.20")
	if status, _ := bee.Exec(ctx, "nodeagent", "status"); !strings.Contains(status, "runs in userspace (nodeagent-wireguard.service)") {
		t.Errorf("status does not say userspace:\n%s", status)
	}
	if shown := bee.must("nodeagent", "wireguard", "show"); !strings.Contains(shown, "in userspace") || !strings.Contains(shown, "cee\t203.0.113.20:51820") {
		t.Errorf("shown:\n%s", shown)
	}

	// The agent is restarted, killed, and stopped: not a packet is lost.
	out, err := bee.Exec(ctx, "sh", "-c", `ping -i0.01 -c400 -q 10.9.0.20 > /tmp/pings & p=$!
systemctl restart nodeagent; systemctl kill -s KILL nodeagent; systemctl stop nodeagent; wait $p; cat /tmp/pings; systemctl start nodeagent`)
	if err != nil || !strings.Contains(out, "400 received, 0% packet loss") {
		t.Errorf("restarting the agent disturbed the mesh (%v):\n%s", err, out)
	}

	// The program is killed: systemd brings it back, the agent configures it.
	pid := "systemctl show -P MainPID nodeagent-wireguard.service"
	before := bee.must("sh", "-c", pid)
	bee.must("systemctl", "kill", "-s", "KILL", "nodeagent-wireguard.service")
	if err := lab.Within(ctx, 30*time.Second, "the mesh to come back", func(context.Context) error {
		if now := bee.must("sh", "-c", pid); now == before || now == "0\n" {
			return fmt.Errorf("the program has the process id %s", now)
		}
		_, err := cee.Exec(ctx, "ping", "-c1", "-W1", "10.9.0.10")
		return err
	}); err != nil {
		t.Error(err)
	}

	// The program hangs and is still active. The rest of the network is kept all
	// the same, and the watchdog brings the mesh back.
	before = bee.must("sh", "-c", pid)
	bee.must("sh", "-c", "kill -STOP $("+pid+"); ip address delete 203.0.113.10/24 dev eth0")
	hung := time.Now()
	if err := lab.Within(ctx, 25*time.Second, "the address to be put back", func(context.Context) error {
		_, err := bee.Exec(ctx, "sh", "-c", "ip -o address show dev eth0 | grep -q 203.0.113.10/24")
		return err
	}); err != nil {
		t.Error(err)
	}
	t.Logf("the address is back after %s", time.Since(hung).Round(10*time.Millisecond))
	if now := bee.must("sh", "-c", pid); now != before {
		t.Errorf("the program had ended by then: %s is now %s", before, now)
	}
	if err := lab.Within(ctx, 90*time.Second, "the mesh to come back", func(context.Context) error {
		_, err := cee.Exec(ctx, "ping", "-c1", "-W1", "10.9.0.10")
		return err
	}); err != nil {
		t.Error(err)
	}
	t.Logf("the mesh is back %s after its program hung", time.Since(hung).Round(10*time.Millisecond))

	// After a reboot it is chosen anew; nothing of it lies where it would last.
	if err := bee.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := bee.Exec(ctx, "sh", "-c", "ls /etc/systemd/system/nodeagent-wireguard.service"); err == nil {
		t.Errorf("the unit file would outlive a boot: %s", out)
	}
	bee.must("systemctl", "start", "nodeagent.service")
	bee.must("ping", "-c1", "-W20", "10.9.0.20")

	// The spec drops it.
	bare, _, _ := strings.Cut(fleet["bee.toml"], "[wireguard]")
	bee.must("systemctl", "stop", "nodeagent.service")
	for name, content := range map[string]string{"cluster.toml": "[cluster]\nname = \"mesh\"\n", "bee.toml": bare} {
		if err := bee.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bee.must("rm", "/etc/nodeagent/fleet/cee.toml")
	bee.must("nodeagent", "apply")
	left, _ := bee.Exec(ctx, "sh", "-c", "ip -br link show wg0; systemctl is-active nodeagent-wireguard.service; ls /run/systemd/system/nodeagent-wireguard.service")
	if strings.TrimSpace(left) != "inactive" {
		t.Errorf("left after the spec dropped it:\n%s", left)
	}
}
