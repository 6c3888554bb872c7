package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// drifting is a host whose daemon puts right, or tells of, what changes by hand.
type drifting struct{ lockout }

// newDrifting boots a host with nodeagent and wg(8).
func newDrifting(t *testing.T, ctx context.Context, l *lab.Lab) drifting {
	t.Helper()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		t.Fatal(err)
	}
	made, err := l.AddHost(ctx, lab.HostOptions{Name: "dia", Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	h := drifting{lockout{t, ctx, &lab.Mercury{Host: made}}}
	path, err := exec.LookPath("wg")
	if err != nil {
		t.Fatal(err)
	}
	wg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{h.PutFile("/usr/local/bin/wg", wg, 0o755), h.PutAgent(ctx), h.Boot(ctx)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	return h
}

func (h drifting) fleet(name, content string) {
	h.t.Helper()
	if err := h.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h drifting) with(t *testing.T) drifting {
	h.t = t
	return h
}

// isRight is nil while what the change broke is as the spec says.
func (h drifting) isRight(b byHand) error {
	_, err := h.Exec(h.ctx, "sh", "-c", b.right)
	return err
}

// driftLimit is how long anything may take on a busy machine.
const driftLimit = 30 * time.Second

func (h drifting) until(what string, check func() error) {
	h.t.Helper()
	if err := lab.Within(h.ctx, driftLimit, what, func(context.Context) error { return check() }); err != nil {
		h.t.Fatal(err)
	}
}

// broken changes the host by hand and returns when that was.
func (h drifting) broken(b byHand) time.Time {
	h.t.Helper()
	h.until(b.name+": what is to be broken", func() error { return h.isRight(b) })
	h.quiet()
	return epoch(h.t, h.must("sh", "-c", "date +%s.%N; "+b.change))
}

// quiet waits until the daemon does nothing: what it changed last is announced to
// it too, and a look that follows from that must not find the next change.
func (h drifting) quiet() {
	h.t.Helper()
	before, same := "", 0
	h.until("the daemon to be quiet", func() error {
		now := h.must("sh", "-c", "cat /proc/$(systemctl show -P MainPID nodeagent.service)/task/*/status | grep ^voluntary")
		if same++; now != before {
			before, same = now, 0
		}
		if same < 4 { // longer than events are gathered for
			return fmt.Errorf("it was busy %d looks ago", same)
		}
		return nil
	})
}

func epoch(t *testing.T, text string) time.Time {
	t.Helper()
	seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMicro(int64(seconds * 1e6))
}

// logged is one line of the daemon's log.
type logged struct {
	at   time.Time
	text string
}

// attr is the value of an attribute as slog writes it, "" where there is none.
func (l logged) attr(name string) string {
	_, rest, found := strings.Cut(l.text, " "+name+"=")
	if !found {
		return ""
	}
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		value, _ := strconv.Unquote(quoted)
		return value
	}
	value, _, _ := strings.Cut(rest, " ")
	return value
}

// log is what the daemon has logged since a moment.
func (h drifting) log(since time.Time) []logged {
	h.t.Helper()
	out := h.must("journalctl", "-b", "-u", "nodeagent.service", "--no-pager", "-o", "json",
		fmt.Sprintf("--since=@%d.%06d", since.Unix(), since.Nanosecond()/1000))
	var lines []logged
	for text := range strings.Lines(out) {
		var entry struct {
			Message string `json:"MESSAGE"`
			At      string `json:"__REALTIME_TIMESTAMP"`
		}
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			continue // a message that is no text is not the daemon's
		}
		micros, err := strconv.ParseInt(entry.At, 10, 64)
		if err != nil {
			h.t.Fatal(err)
		}
		if at := time.UnixMicro(micros); !at.Before(since) {
			lines = append(lines, logged{at, entry.Message})
		}
	}
	return lines
}

// find returns the first line with all of the texts, or an error that shows what
// there is.
func find(lines []logged, texts ...string) (logged, error) {
	var all strings.Builder
	for _, l := range lines {
		found := true
		for _, text := range texts {
			found = found && strings.Contains(l.text, text)
		}
		if found {
			return l, nil
		}
		fmt.Fprintln(&all, l.text)
	}
	return logged{}, fmt.Errorf("no line with %q in\n%s", texts, all.String())
}

// cause fails the test where what is announced was noticed in another way. What
// is polled may be found sooner, by a look for another reason.
func (b byHand) cause(t *testing.T, noticed string) {
	t.Helper()
	if !b.polled && !strings.HasPrefix(noticed, "event: ") {
		t.Errorf("noticed by %q, want an event", noticed)
	}
}

// repairs breaks one after another and waits until each is put right.
func (h drifting) repairs(list []byHand) {
	h.t.Helper()
	for _, b := range list {
		h.t.Run("repair/"+b.name, func(t *testing.T) {
			h := h.with(t)
			start := h.broken(b)
			var changed, converged logged
			h.until(b.name+" to be put right", func() error {
				lines := h.log(start)
				var err error
				if changed, err = find(lines, "msg=changed", "domain="+b.domain, b.key); err != nil {
					return err
				}
				if converged, err = find(lines, "msg=converged", "changes="); err != nil {
					return err
				}
				return h.isRight(b)
			})
			b.cause(t, changed.attr("noticed"))
			took, err := time.ParseDuration(converged.attr("after"))
			if err != nil {
				t.Fatalf("%v in %s", err, converged.text)
			}
			round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
			t.Logf("| %s | %s | %s | %s |", b.name, changed.attr("noticed"), round(converged.at.Sub(start)-took), round(changed.at.Sub(start)))
		})
	}
}

// leavesOthersAlone adds what nodeagent has not made, which is no drift.
func (h drifting) leavesOthersAlone() {
	h.t.Helper()
	for _, b := range []struct{ change, there string }{
		{"ip address add 192.0.2.97/32 dev eth0", "ip -o address show dev eth0 | grep -q 192.0.2.97"},
		{"ip route add 198.51.200.0/24 via 203.0.113.1", "ip route | grep -q 198.51.200.0/24"},
		{"ip rule add priority 2000 to 198.51.200.0/24 table 100", "ip rule | grep -q ^2000:"},
		{"ip link add other0 type bridge", "ip link show other0"},
		{"nft add table inet other", "nft list table inet other"},
		{"echo 192.0.2.98 other >>/etc/hosts", "grep -q other /etc/hosts"},
	} {
		h.must("sh", "-c", b.change)
		h.quiet()
		h.must("sh", "-c", b.there)
	}
	if out, err := h.Exec(h.ctx, "nodeagent", "plan", "--exit-code"); err != nil {
		h.t.Errorf("what others made is drift (%v):\n%s", err, out)
	}
}

// overrun makes more events than the socket of a stopped process can hold, and
// prints how many the kernel threw away.
const overrun = `p=$(systemctl show -P MainPID nodeagent.service); kill -STOP $p
for n in $(seq 4000); do echo route add 10.$((n / 250)).$((n % 250)).0/24 via 203.0.113.1 table 999; done | ip -batch -
ip route flush table 999
ip address delete 192.0.2.10/32 dev addr0
for s in /proc/$p/fd/*; do readlink $s; done | sed -n 's/socket:.\([0-9]*\)./\1/p' >/run/sockets
kill -CONT $p
awk 'NR == FNR { ours[$1]; next } $NF in ours { lost += $(NF - 1) } END { print lost + 0 }' /run/sockets /proc/net/netlink`

// survivesOverrun breaks the host while events are lost.
func (h drifting) survivesOverrun() {
	h.t.Helper()
	h.quiet()
	start := epoch(h.t, h.must("date", "+%s.%N"))
	lost, err := strconv.Atoi(strings.TrimSpace(h.must("sh", "-c", overrun)))
	if err != nil || lost == 0 {
		h.t.Fatalf("no event was lost (%v)", err)
	}
	h.until("the address to be put back", func() error {
		line, err := find(h.log(start), "msg=changed", "address 192.0.2.10/32 on addr0")
		if err == nil && !strings.HasPrefix(line.attr("noticed"), "event: ") {
			h.t.Errorf("noticed by %q", line.attr("noticed"))
		}
		return err
	})
	h.t.Logf("%d events were lost", lost)
}

// reports breaks one after another, of which the daemon must only tell, and lets
// apply put all right.
func (h drifting) reports(spec string, list []byHand) {
	h.t.Helper()
	list = slices.DeleteFunc(slices.Clone(list), func(b byHand) bool { return b.alone })
	h.must("rm", "-f", "/var/lib/nodeagent/made.json")
	h.fleet("dia.toml", spec+driftReport)
	h.until("the daemon to take the new spec", func() error {
		out, err := h.Exec(h.ctx, "cat", "/var/lib/nodeagent/made.json")
		for _, domain := range []string{"kernel", "names", "network"} {
			if err == nil && !strings.Contains(out, `"`+domain+`"`) {
				err = fmt.Errorf("%s is not in %s", domain, out)
			}
		}
		return err
	})
	for _, b := range list {
		h.t.Run("report/"+b.name, func(t *testing.T) {
			h := h.with(t)
			start := h.broken(b)
			var told logged
			h.until(b.name+" to be told", func() error {
				var err error
				told, err = find(h.log(start), "which is only reported", "domain="+b.domain, b.key)
				return err
			})
			b.cause(t, told.attr("noticed"))
			t.Logf("| %s | %s | %s |", b.name, told.attr("noticed"), told.at.Sub(start).Round(time.Millisecond))
			if h.isRight(b) == nil {
				t.Error("it was put right")
			}
			h.isReported(b)
		})
	}
	for _, b := range list {
		if h.isRight(b) == nil {
			h.t.Errorf("%s was put right, though it should only be reported", b.name)
		}
	}
	h.must("nodeagent", "apply", "--host", "dia")
	for _, b := range list {
		if err := h.isRight(b); err != nil {
			h.t.Errorf("%s: apply does not put it right: %v", b.name, err)
		}
	}
}

// isReported checks that status names what drifted as that.
func (h drifting) isReported(b byHand) {
	h.t.Helper()
	out, _ := h.Exec(h.ctx, "nodeagent", "status", "--host", "dia", "-o", "json") // 1: not converged
	var status struct {
		Domains []struct {
			Name, Drift string
			Changes     []struct{ Key string }
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		h.t.Fatalf("%v in %s", err, out)
	}
	for _, d := range status.Domains {
		for _, c := range d.Changes {
			if d.Name == b.domain && d.Drift == "report" && strings.Contains(c.Key, b.key) {
				return
			}
		}
	}
	h.t.Errorf("status does not report it: %+v", status.Domains)
}
