package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// meshTime is what the cuts give for a confirmation that never comes: a mesh is
// there again only after some handshakes.
const meshTime = "40s"

// meshed is a fleet of two hosts of which bee lets ssh in over the mesh alone.
type meshed struct {
	keys map[string]string
	// stopped leaves the mesh out; more is added to bee's file.
	stopped bool
	more    string
}

func (m meshed) fleet() map[string]string {
	files := map[string]string{"cluster.toml": "[cluster]\nname = \"lockout\"\n"}
	if !m.stopped {
		files["cluster.toml"] += "[network.wireguard]\nrange = \"10.9.0.0/24\"\n"
	}
	for i, name := range []string{"bee", "cat"} {
		outer := fmt.Sprintf("203.0.113.%d", 10+i)
		text := fmt.Sprintf("[host]\nroles = []\naddress = %q\n[network.link.eth0]\naddresses = [\"%s/24\"]\n", outer, outer)
		if !m.stopped {
			text += fmt.Sprintf("[wireguard]\naddress = \"10.9.0.%d\"\npublic_key = %q\nendpoint = \"%s:51820\"\n", 1+i, m.keys[name], outer)
		}
		text += "[firewall.allow.ssh]\nports = [22]\nfrom = [\"10.9.0.0/24\"]\n"
		if name == "bee" {
			text += m.more
		}
		files[name+".toml"] = text
	}
	return files
}

// testLockoutMesh stops the mesh that is the only way in, and lets probes find
// out that a peer was lost.
func testLockoutMesh(t *testing.T) {
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	addAdmin(t, ctx, l)
	key := makeKey(t)
	bee, cat := newReached(t, ctx, l, "bee", key), newReached(t, ctx, l, "cat", key)
	good := meshed{keys: map[string]string{}}
	for name, h := range map[string]reached{"bee": bee, "cat": cat} {
		good.keys[name] = strings.TrimSpace(h.must("nodeagent", "wireguard", "key"))
	}
	for _, h := range []reached{cat, bee} {
		h.fleet(good.fleet())
		h.must("nodeagent", "apply")
	}
	over := func(command string) error {
		args := append(sshArgs("/root/.ssh/id"), "root@10.9.0.1", command)
		_, err := cat.Exec(ctx, args...)
		return err
	}
	bee.until(30*time.Second, "the way in over the mesh", func() error { return over("true") })
	if out, err := bee.ssh("203.0.113.10", "true"); err == nil {
		t.Fatalf("there is another way in than the mesh: %s", out)
	}
	before := bee.network()
	stopped := good
	stopped.stopped = true
	bee.fleet(stopped.fleet())
	for _, death := range []struct {
		name string
		cut  func()
		// inTime tells that the host must be reached again as was promised.
		inTime bool
	}{
		{"silence", func() {
			bee.must("nodeagent", "apply", "--force-lockout", "--confirm", meshTime)
			if over("true") == nil {
				t.Error("the mesh is stopped, and yet it is the way in")
			}
		}, true},
		{"kill -9", func() {
			if out := bee.must("timeout", "20", "sh", "-c", killRightAfter, "sh", "", "nodeagent", "apply", "--force-lockout", "--confirm", meshTime); out != "killed\n" {
				t.Fatalf("apply was not killed: %s", out)
			}
		}, true},
		{"reboot", func() {
			bee.must("nodeagent", "apply", "--force-lockout", "--confirm", "2m")
			if err := bee.Reboot(ctx); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		death.cut()
		start, limit := time.Now(), 30*time.Second
		if death.inTime {
			limit = time.Until(bee.promised())
		}
		bee.until(limit, death.name+": the way in over the mesh", func() error { return over("true") })
		t.Logf("mesh, %s: reached again after %.1fs", death.name, time.Since(start).Seconds())
		// Killed before it changed anything, the way in never went; what was
		// begun ends at the deadline all the same.
		bee.backTo(before, max(0, limit-time.Since(start))+10*time.Second)
	}
	probesJudgePeers(bee, good, over)
}

// probesJudgePeers gives bee a wrong key for its peer, and then a spec that does
// no harm.
func probesJudgePeers(bee reached, good meshed, over func(string) error) {
	bee.t.Helper()
	before := bee.network()
	good.more = "[network.probes]\nnames = [\"wireguard\"]\nwithin = \"4s\"\n"
	wrong := good
	wrong.keys = map[string]string{"bee": good.keys["bee"], "cat": "KqbcxTDZnD79Q427hFIgRyEmggLtyFARPNSvHyClwUU="}
	bee.fleet(wrong.fleet())
	out, err := bee.Exec(bee.ctx, "nodeagent", "apply", "--force-lockout")
	bee.refused("wireguard peer cat", out, err)
	bee.backTo(before, time.Second)
	bee.until(30*time.Second, "the way in over the mesh", func() error { return over("true") })
	good.more = strings.Replace(good.more, "4s", "15s", 1) + "[firewall.allow.more]\nports = [2222]\n"
	bee.fleet(good.fleet())
	bee.must("nodeagent", "apply")
	if err := bee.confirmed("wireguardpeercat"); err != nil {
		bee.t.Errorf("probes did not confirm: %v", err)
	}
}
