package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// beeSpec is a host without roles. Its parts can be replaced one by one.
type beeSpec struct{ address, via, ssh, more string }

var goodBee = beeSpec{address: "203.0.113.10", via: "203.0.113.1", ssh: "ports = [22]"}

func (s beeSpec) String() string {
	return fmt.Sprintf(`[host]
roles = []
address = %q
[network.link.eth0]
addresses = ["%s/24"]
[[network.route]]
destination = "default"
via = %q
[firewall.allow.ssh]
%s
%s
`, s.address, s.address, s.via, s.ssh, s.more)
}

// bee is the fleet of one host.
func (s beeSpec) fleet() map[string]string {
	return map[string]string{"cluster.toml": "[cluster]\nname = \"lockout\"\n", "bee.toml": s.String()}
}

// testLockout applies specs that cut the way in, and each time comes in again
// by the deadline.
func testLockout(t *testing.T) {
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	addAdmin(t, ctx, l)
	h := newReached(t, ctx, l, "bee", makeKey(t))
	h.fleet(goodBee.fleet())
	h.must("nodeagent", "apply")
	for _, step := range []struct {
		name string
		run  func(reached)
	}{
		{"cuts", cutTheWayIn},
		{"confirm", confirmations},
		{"nested", nestedAttempts},
		{"failure", failedChange},
		{"run", underRun},
		{"interrupted", interruptedTrials},
		{"drift", driftIsReported},
		{"two agents", twoAgents},
	} {
		t.Run(step.name, func(t *testing.T) {
			h := h
			h.t = t
			step.run(h)
		})
	}
}

// killRightAfter runs a command and kills it as soon as the network shows a mark,
// or at once where the mark is empty, but never before the attempt is recorded.
const killRightAfter = `mark=$1; shift; "$@" >/tmp/apply.log 2>&1 & p=$!
until test -e /var/lib/nodeagent/confirm/attempt.json; do kill -0 $p || { cat /tmp/apply.log; exit 1; }; done
until { ip -o address; ip route; nft list ruleset; } | grep -q "$mark"; do kill -0 $p || break; done
kill -9 $p 2>/dev/null; echo killed`

// cutTime is what the cuts give for a confirmation that never comes.
const cutTime = "8s"

// promised is by when the host is to be reached again.
func (r reached) promised() time.Time {
	r.t.Helper()
	var attempt struct{ Reachable time.Time }
	if err := json.Unmarshal([]byte(r.must("cat", "/var/lib/nodeagent/confirm/attempt.json")), &attempt); err != nil {
		r.t.Fatal(err)
	}
	return attempt.Reachable
}

// backInTime waits for the way in, which must be there as was promised.
func (r reached) backInTime(name, before string, promised time.Time) {
	r.t.Helper()
	r.backAndReachable(name, before, time.Until(promised))
}

// cutTheWayIn removes the address, breaks the route and closes the port; and
// lets time pass, kills the agent, reboots the host.
func cutTheWayIn(h reached) {
	h.must("sysctl", "-q", "net.ipv4.conf.eth0.forwarding=1") // by hand
	before := h.network()
	cuts := []struct {
		name string
		spec beeSpec
		mark string
	}{
		{"address", beeSpec{"192.0.2.10", "192.0.2.1", goodBee.ssh, ""}, ""},
		{"route", beeSpec{goodBee.address, "203.0.113.99", goodBee.ssh, "[kernel.sysctl]\nnet.ipv4.ip_forward = 1\nnet.ipv4.conf.eth0.rp_filter = 1\n"}, "203.0.113.99"},
		{"port", beeSpec{goodBee.address, goodBee.via, "ports = [2222]", ""}, "2222"},
	}
	for _, cut := range cuts {
		h.fleet(cut.spec.fleet())
		h.reachable()
		h.must("nodeagent", "apply", "--force-lockout", "--confirm", cutTime)
		promised := h.promised()
		if out, err := h.ssh(goodBee.address, "true"); err == nil {
			h.t.Fatalf("cut %s: the way in is still there: %s", cut.name, out)
		}
		h.backInTime(cut.name+", silence", before, promised)
	}
	for _, cut := range cuts {
		h.fleet(cut.spec.fleet())
		out, _ := h.Exec(h.ctx, "timeout", "20", "sh", "-c", killRightAfter, "sh", cut.mark, "nodeagent", "apply", "--force-lockout", "--confirm", cutTime)
		promised := h.promised()
		if out != "killed\n" {
			h.t.Fatalf("cut %s: apply was not killed: %s", cut.name, out)
		}
		h.backInTime(cut.name+", kill -9", before, promised)
	}
	for _, cut := range cuts {
		h.fleet(cut.spec.fleet())
		h.must("nodeagent", "apply", "--force-lockout", "--confirm", "2m")
		if err := h.Reboot(h.ctx); err != nil {
			h.t.Fatal(err)
		}
		h.must("sysctl", "-q", "net.ipv4.conf.eth0.forwarding=1")
		h.backAndReachable(cut.name+", reboot", before, 20*time.Second)
	}
}

func (r reached) reachable() {
	r.t.Helper()
	r.until(10*time.Second, "the way in", func() error { _, err := r.ssh(goodBee.address, "true"); return err })
}

func (r reached) backAndReachable(name, before string, limit time.Duration) {
	r.t.Helper()
	start := time.Now()
	r.until(limit, name+": the way in", func() error { _, err := r.ssh(goodBee.address, "true"); return err })
	r.t.Logf("%s: reached again after %.1fs of %.1fs", name, time.Since(start).Seconds(), limit.Seconds())
	r.backTo(before, 10*time.Second)
}

// confirmations come over connections old and new.
func confirmations(h reached) {
	// Rejected by the cuts before: a person's apply makes it all the same.
	h.fleet(beeSpec{goodBee.address, goodBee.via, "ports = [22, 2222]", ""}.fleet())
	h.must("nodeagent", "apply", "--confirm", "60s")
	out, err := h.Exec(h.ctx, "nodeagent", "confirm")
	h.refused("--local", out, err)
	out, err = h.Exec(h.ctx, "ssh", "-i", "/root/.ssh/id", "-S", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"root@"+goodBee.address, "nodeagent confirm")
	h.refused("comes from the host itself", out, err)
	if out, err := h.ssh(goodBee.address, "nodeagent confirm"); err != nil {
		h.t.Fatalf("a new connection does not confirm: %s (%v)", out, err)
	}
	h.must("sh", "-c", "test ! -e /var/lib/nodeagent/confirm/attempt.json && test ! -e /etc/systemd/system/nodeagent.rollback.timer && test ! -e /var/lib/nodeagent/confirm/rejected.json")
	before := h.network()
	if !strings.Contains(before, "2222") {
		h.t.Fatalf("confirmed, and yet it is\n%s", before)
	}
	// One and the same connection changes and confirms.
	h.fleet(beeSpec{goodBee.address, goodBee.via, "ports = [22, 2223]", ""}.fleet())
	out, err = h.ssh(goodBee.address, "nodeagent apply --confirm 5s && nodeagent confirm")
	h.refused("before the change", out, err)
	h.backTo(before, 10*time.Second)
	// The console, and a plain apply of what was rejected.
	h.must("nodeagent", "apply", "--confirm", "60s")
	h.must("nodeagent", "confirm", "--local")
	h.fleet(beeSpec{goodBee.address, goodBee.via, "ports = [22, 2224]", ""}.fleet())
	h.must("nodeagent", "apply", "--confirm", "60s")
	h.must("nodeagent", "rollback")
	h.must("test", "-e", "/var/lib/nodeagent/confirm/rejected.json")
	h.must("nodeagent", "apply")
	h.must("sh", "-c", "test ! -e /var/lib/nodeagent/confirm/rejected.json")
}

// nestedAttempts go back to what was last confirmed.
func nestedAttempts(h reached) {
	before := h.network()
	h.fleet(beeSpec{"203.0.113.20", goodBee.via, goodBee.ssh, ""}.fleet())
	h.must("nodeagent", "apply", "--force-lockout", "--confirm", "60s")
	h.fleet(beeSpec{"203.0.113.30", goodBee.via, "ports = [23]", ""}.fleet())
	h.must("nodeagent", "apply", "--force-lockout", "--confirm", "3s")
	h.backAndReachable("nested", before, 10*time.Second)
}

// failedChange cannot be made in full: it goes back by itself, at once.
func failedChange(h reached) {
	before := h.network()
	h.fleet(beeSpec{goodBee.address, "203.0.113.98", goodBee.ssh, "[kernel.sysctl]\nnet.ipv4.no_such_key = 1\n"}.fleet())
	out, err := h.Exec(h.ctx, "nodeagent", "apply", "--force-lockout", "--confirm", "60s")
	h.refused("as it was before", out, err)
	h.backTo(before, time.Second)
	out, err = h.ssh(goodBee.address, "nodeagent confirm")
	h.refused("no change of the network awaits", out, err)
}

const gatewayProbe = "[network.probes]\nnames = [\"gateway\"]\nwithin = \"3s\"\n"

// underRun lets the daemon make networks that its probes judge.
func underRun(h reached) {
	good := goodBee
	good.more = gatewayProbe
	h.fleet(good.fleet())
	h.must("systemctl", "start", "nodeagent.service")
	h.until(20*time.Second, "the probes to confirm", func() error { return h.confirmed("203.0.113.1\"") })
	before := h.network()
	bad := good
	bad.via = "203.0.113.99"
	h.fleet(bad.fleet())
	h.must("systemctl", "reload", "nodeagent.service")
	h.until(20*time.Second, "the probes to object", func() error {
		_, err := h.Exec(h.ctx, "grep", "-q", "any IPv4 gateway", "/var/lib/nodeagent/confirm/rejected.json")
		return err
	})
	h.backAndReachable("run", before, 10*time.Second)
	for range 3 {
		h.must("systemctl", "reload", "nodeagent.service")
	}
	h.until(10*time.Second, "the daemon to say so", func() error {
		out, err := h.Exec(h.ctx, "journalctl", "-b", "-u", "nodeagent.service", "--no-pager")
		if n := strings.Count(out, "is not tried again until it changes"); n != 1 {
			return fmt.Errorf("said %d times (%v)", n, err)
		}
		return nil
	})
	if status, err := h.Exec(h.ctx, "nodeagent", "status"); err != nil || !strings.Contains(status, "is not tried again") {
		h.t.Errorf("status does not tell (%v):\n%s", err, status)
	}
	if now := h.network(); now != before {
		h.t.Errorf("run tried the rejected spec:\n%s", now)
	}
	// Another spec is tried, and the rejection is forgotten with it.
	next := good
	next.ssh = "ports = [22, 2225]"
	h.fleet(next.fleet())
	h.must("systemctl", "reload", "nodeagent.service")
	h.until(20*time.Second, "the next spec", func() error { return h.confirmed("2225") })
	// By hand with probes alone.
	h.must("systemctl", "stop", "nodeagent.service")
	before = h.network()
	h.fleet(bad.fleet())
	out, err := h.Exec(h.ctx, "nodeagent", "apply", "--force-lockout", "-o", "json")
	h.refused("answered before does no more", "", err)
	var said struct {
		Converged bool
		Undone    string
		Probes    []struct{ Lost bool }
	}
	err = json.Unmarshal([]byte(out), &said)
	if err != nil || said.Converged || !strings.Contains(said.Undone, "gateway") || !slices.Contains(said.Probes, struct{ Lost bool }{true}) {
		h.t.Errorf("apply -o json of what is undone says %+v (%v):\n%s", said, err, out)
	}
	h.backTo(before, time.Second)
}

// confirmed checks that a network with the text in it is the confirmed one, and
// that nothing is pending or rejected.
func (r reached) confirmed(text string) error {
	_, err := r.Exec(r.ctx, "sh", "-c", fmt.Sprintf("cd /var/lib/nodeagent/confirm && test ! -e attempt.json && test ! -e rejected.json && tr -d '\\n ' <confirmed.json | grep -q '%s'", text))
	return err
}

// killTrials takes a new spec into the fleet and kills the daemon in the middle of
// so many of its trials in a row; "late" when one was complete already, which on a
// busy machine may have gone by unseen.
const killTrials = `cd /var/lib/nodeagent/confirm; p=0
main() { SECONDS=0; old=$p; until p=$(systemctl show -P MainPID nodeagent.service); [[ $p != 0 && $p != $old ]]; do :; done; }
main; cp /root/next.toml /etc/nodeagent/fleet/bee.toml
for ((n = 0; n < $1; n++)); do
	count='"interrupted": '$n; ((n)) || count='"by": "run"'
	until read -r -d '' a 2>/dev/null <attempt.json; [[ $a == *"$count"* && $a != *'"undoing"'* ]]; do
		((SECONDS < 20)) || { echo late; exit; }
	done
	kill -9 $p
	[[ $(<attempt.json) != *'"changed"'* ]] || { echo late; exit; }
	((n + 1 == $1)) || main
done; echo killed`

// interruptedTrials are made again by the daemon that follows, but not for ever.
func interruptedTrials(h reached) {
	good := goodBee
	good.more = gatewayProbe
	h.fleet(good.fleet())
	h.must("nodeagent", "apply")
	h.must("systemctl", "start", "nodeagent.service")
	h.until(20*time.Second, "the good network to be confirmed", func() error { return h.confirmed("203.0.113.1\"") })
	port := 3000
	interrupt := func(times int) (tried, before string) {
		for range 8 {
			port++
			before = h.network()
			next := good
			next.ssh = fmt.Sprintf("ports = [22, %d]", port)
			if err := h.PutFile("/root/next.toml", []byte(next.String()), 0o644); err != nil {
				h.t.Fatal(err)
			}
			switch out := h.must("timeout", "100", "nice", "-n", "-15", "bash", "-c", killTrials, "bash", fmt.Sprint(times)); out {
			case "killed\n":
				return fmt.Sprint(port), before
			case "late\n": // the next daemon confirms it
			default:
				h.t.Fatalf("unexpected: %s", out)
			}
			h.until(30*time.Second, "the network that was complete", func() error { return h.confirmed(fmt.Sprint(port)) })
		}
		h.t.Fatal("no trial could be interrupted")
		return "", ""
	}
	made, _ := interrupt(1)
	h.until(30*time.Second, "the trial to be made again", func() error { return h.confirmed(made) })
	_, before := interrupt(3)
	h.until(30*time.Second, "the spec to be rejected", func() error {
		_, err := h.Exec(h.ctx, "grep", "-q", "interrupted 3 times", "/var/lib/nodeagent/confirm/rejected.json")
		return err
	})
	h.backTo(before, 10*time.Second)
	h.until(20*time.Second, "the daemon to say so", func() error {
		status, _ := h.Exec(h.ctx, "nodeagent", "status")
		if !strings.Contains(status, "is not tried again") {
			return fmt.Errorf("status is\n%s", status)
		}
		return nil
	})
	h.must("systemctl", "stop", "nodeagent.service")
}

// driftIsReported leaves a deleted address alone where the spec says so.
func driftIsReported(h reached) {
	spec := goodBee
	spec.more = "[network.link.eth1]\nkind = \"bridge\"\naddresses = [\"192.0.2.77/24\"]\n[drift]\nnetwork = \"report\"\n"
	h.fleet(spec.fleet())
	h.must("systemctl", "start", "nodeagent.service")
	h.until(20*time.Second, "the address of the new spec", func() error {
		_, err := h.Exec(h.ctx, "sh", "-c", "ip -4 -o address | grep -q 192.0.2.77 && test -e /var/lib/nodeagent/made.json")
		return err
	})
	h.must("ip", "address", "delete", "192.0.2.77/24", "dev", "eth1")
	h.until(10*time.Second, "the daemon to tell", func() error {
		out, err := h.Exec(h.ctx, "journalctl", "-b", "-u", "nodeagent.service", "--no-pager")
		if n := strings.Count(out, "create address 192.0.2.77/24 on eth1"); n != 1 {
			return fmt.Errorf("told %d times (%v):\n%s", n, err, out)
		}
		return nil
	})
	h.must("systemctl", "restart", "nodeagent.service") // ready once it has looked
	if out, _ := h.Exec(h.ctx, "sh", "-c", "ip -4 -o address | grep 192.0.2.77"); out != "" {
		h.t.Errorf("drift that is only reported was repaired: %s", out)
	}
	if status, err := h.Exec(h.ctx, "nodeagent", "status"); err != nil || !strings.Contains(status, "only reported") {
		h.t.Errorf("status does not tell of the drift (%v):\n%s", err, status)
	}
	h.must("nodeagent", "apply")
	h.must("sh", "-c", "ip -4 -o address | grep -q 192.0.2.77")
}

// twoAgents: the second is refused and says whose turn it is.
func twoAgents(h reached) {
	pid := strings.TrimSpace(h.must("systemctl", "show", "-P", "MainPID", "nodeagent.service"))
	out, err := h.Exec(h.ctx, "timeout", "5", "nodeagent", "run")
	h.refused("process "+pid, out, err)
	if pid == "0" || pid == "" {
		h.t.Errorf("nodeagent.service has no process: %q", pid)
	}
}
