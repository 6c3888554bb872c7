package clock

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// patience bounds each wait. What is waited for takes seconds at most, but the
// processor is emulated and the machine under it may be busy.
const patience = 2 * time.Minute

// program is where the guest has the binary that the tests are about.
const program = "/usr/local/bin/nodeagent"

// cluster is a fleet of one host with its own issuer, and of etcd alone: each
// step issues everything. It is not there to be started; certificates do not wait
// for it.
var cluster = map[string]string{
	"cluster.toml": `[cluster]
name = "clock"

[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"

[pki]
issuer = "local"
`,
	"n1.toml": `[host]
roles = ["etcd"]
address = "10.9.0.1"
`,
}

// host is a host of the test: a network namespace with folders of its own.
type host struct {
	fleet string
	dir   string // its root folder, as this test sees it
	root  layout.Root
	// boot is by how much the host's uptime differs from the machine's.
	boot   time.Duration
	daemon *exec.Cmd
	log    string // of all daemons
	// seen is how much of the log is of what was before the step.
	seen int
	// issued is how often each certificate was to be issued so far.
	issued map[string]int
}

// inside runs a command on the host.
const inside = `set -e
for dir in /var/lib/nodeagent /run/nodeagent; do
  mkdir -p "$dir" "$1$dir"
  mount --bind "$1$dir" "$dir"
done
shift
exec "$@"
`

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{fleet: t.TempDir(), dir: t.TempDir(), issued: map[string]int{}}
	h.root = layout.Root(h.dir)
	h.log = filepath.Join(h.dir, "log")
	for name, content := range cluster {
		must(t, os.WriteFile(filepath.Join(h.fleet, name), []byte(content), 0o600))
	}
	if out, err := exec.Command("ip", "netns", "add", "clock").CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		h.stop(t)
		if out, err := exec.Command("ip", "netns", "delete", "clock").CombinedOutput(); err != nil {
			t.Errorf("remove the network namespace: %v\n%s", err, out)
		}
		if t.Failed() {
			t.Logf("the daemons' log:\n%s", h.logged(t))
		}
	})
	return h
}

// command is nodeagent on the host, in a time namespace that has its uptime.
func (h *host) command(args ...string) *exec.Cmd {
	offset := strconv.FormatInt(int64(h.boot/time.Second), 10)
	words := []string{
		"netns", "exec", "clock", "unshare", "--time", "--boottime=" + offset, "--fork", "--kill-child",
		"sh", "-c", inside, "sh", h.dir, program, "--fleet", h.fleet, "--host", "n1",
	}
	return exec.Command("ip", append(words, args...)...)
}

// run runs nodeagent, and fails the test where its exit status is another one.
func (h *host) run(t *testing.T, want int, args ...string) string {
	t.Helper()
	began := time.Now()
	out, err := h.command(args...).CombinedOutput()
	// It also tells the machine outside that the guest is at work.
	t.Logf("nodeagent %s ended after %s", strings.Join(args, " "), time.Since(began).Round(100*time.Millisecond))
	status := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status, err = exit.ExitCode(), nil
	}
	if err != nil || status != want {
		t.Fatalf("nodeagent %s: exit status %d, want %d (%v)\n%s", strings.Join(args, " "), status, want, err, out)
	}
	return string(out)
}

// start boots the host: the daemon runs, and the uptime is as given.
func (h *host) start(t *testing.T, up time.Duration) {
	t.Helper()
	h.boot = (up - uptime(t)).Truncate(time.Second)
	must(t, os.RemoveAll(h.root.Runtime()))
	h.seen = len(h.logged(t))
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	h.daemon = h.command("run")
	h.daemon.Stdout, h.daemon.Stderr = log, log
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, h.daemon.Start())
}

// stop ends the daemon.
func (h *host) stop(t *testing.T) {
	t.Helper()
	if h.daemon == nil {
		return
	}
	must(t, syscall.Kill(-h.daemon.Process.Pid, syscall.SIGKILL))
	_ = h.daemon.Wait() // killed
	h.daemon = nil
}

// logged is what the daemons have logged.
func (h *host) logged(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(h.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(log)
}

// listed is what certificates are, as another process of nodeagent tells it.
type listed struct {
	Held         *pki.Hold    `json:"held"`
	Certificates []pki.Status `json:"certificates"`
}

// list lists them.
func (h *host) list(t *testing.T) (l listed) {
	t.Helper()
	out := h.run(t, 0, "certs", "list", "-o", "json")
	must(t, json.Unmarshal([]byte(out), &l))
	return l
}

// states lists the states of the certificates, each once.
func (l listed) states() []string {
	seen := map[string]bool{}
	for _, c := range l.Certificates {
		seen[c.State] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// status is what nodeagent says of the host: problems, then warnings, a line
// each. It is not healthy, since no component is there.
func (h *host) status(t *testing.T) (problems, warnings string) {
	t.Helper()
	var s struct{ Problems, Warnings []string }
	must(t, json.Unmarshal([]byte(h.run(t, 0, "status", "-o", "json")), &s))
	return strings.Join(s.Problems, "\n"), strings.Join(s.Warnings, "\n")
}

// certificates are those on disk, by name.
func (h *host) certificates(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	list := map[string]*x509.Certificate{}
	folders, err := filepath.Glob(filepath.Join(h.root.PKI(), "certs", "*", "current"))
	must(t, err)
	for _, dir := range folders {
		name := filepath.Base(filepath.Dir(dir))
		content, err := os.ReadFile(h.root.Certificate(name).Cert)
		if errors.Is(err, os.ErrNotExist) {
			continue // it is just being switched
		}
		must(t, err)
		block, _ := pem.Decode(content)
		if block == nil {
			t.Fatalf("certificate %s holds no PEM", name)
		}
		list[name], err = x509.ParseCertificate(block.Bytes)
		must(t, err)
	}
	return list
}

// serials are the serial numbers of the certificates on disk.
func (h *host) serials(t *testing.T) map[string]string {
	t.Helper()
	serials := map[string]string{}
	for name, c := range h.certificates(t) {
		serials[name] = c.SerialNumber.Text(16)
	}
	return serials
}

// change is a certificate that the daemon says it has issued.
var change = regexp.MustCompile(`(?m)^level=INFO msg=changed .*domain=pki .*key="certificate ([^"]+)"`)

// counted is how often each certificate was issued, by the daemons' log.
func (h *host) counted(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, match := range change.FindAllStringSubmatch(h.logged(t), -1) {
		count[match[1]]++
	}
	return count
}

// until looks until the condition holds, and returns how long that took by a
// clock that nobody sets.
func until(t *testing.T, what string, holds func() (bool, string)) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(300 * time.Millisecond) // each look costs as much as what is waited for
	defer tick.Stop()
	for {
		ok, seen := holds()
		if ok {
			return time.Since(start)
		}
		if time.Since(start) > patience {
			t.Fatalf("no %s within %s; last:\n%s", what, patience, seen)
		}
		<-tick.C
	}
}

// becomesOK waits until every certificate was issued anew since it had these
// serials, and counts: each once, and never again.
func (h *host) becomesOK(t *testing.T, before map[string]string) {
	t.Helper()
	took := until(t, "new certificates", func() (bool, string) {
		now := h.serials(t)
		for name, serial := range before {
			if now[name] == serial {
				return false, fmt.Sprintf("%s is the one from before", name)
			}
		}
		if len(now) == 0 || len(now) < len(before) {
			return false, fmt.Sprintf("%d certificates", len(now))
		}
		count := h.counted(t)
		for name := range now {
			if count[name] == h.issued[name] {
				return false, "the log does not say that " + name + " was issued"
			}
		}
		return true, ""
	})
	t.Logf("all new after %s", took.Round(100*time.Millisecond))
	until(t, "an empty plan", func() (bool, string) {
		out, err := h.command("plan", "--exit-code", "--only", "pki").CombinedOutput()
		return err == nil, string(out)
	})
	for name := range h.certificates(t) {
		h.issued[name]++
	}
	h.counts(t)
	h.areSensible(t)
}

// counts compares how often certificates were issued with how often they were to
// be.
func (h *host) counts(t *testing.T) {
	t.Helper()
	counted := h.counted(t)
	for name, want := range h.issued {
		if counted[name] != want {
			t.Errorf("certificate %s was issued %d times so far, want %d", name, counted[name], want)
		}
	}
}

// areSensible checks that every certificate is valid now, for as long as the
// fleet says, and signed by what the host trusts.
func (h *host) areSensible(t *testing.T) {
	t.Helper()
	now := time.Now()
	for name, c := range h.certificates(t) {
		roots := x509.NewCertPool()
		bundle, err := os.ReadFile(h.root.Certificate(name).CA)
		must(t, err)
		roots.AppendCertsFromPEM(bundle)
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("certificate %s at %s: %v", name, now.UTC(), err)
		}
		begun, lives := now.Sub(c.NotBefore), c.NotAfter.Sub(c.NotBefore)
		if begun < 0 || begun > pki.Backdate+patience || lives > 90*24*time.Hour+2*pki.Backdate {
			t.Errorf("certificate %s is valid from %s to %s, and it is %s", name, c.NotBefore, c.NotAfter, now.UTC())
		}
	}
}

// isHeld waits until the daemon has looked, by its log, and checks that issuing
// waits for the clock, that the certificates say so and why, and that nothing was
// issued.
func (h *host) isHeld(t *testing.T, before map[string]string, looked, why string) {
	t.Helper()
	took := until(t, "look of the daemon", func() (bool, string) {
		log := h.logged(t)[h.seen:]
		return strings.Contains(log, looked), log
	})
	l := h.list(t)
	if !slices.Equal(l.states(), []string{pki.StateHeld}) || l.Held == nil {
		t.Fatalf("nothing waits for the clock, or not all: %+v", l)
	}
	for _, c := range l.Certificates {
		if !strings.Contains(c.Reason, why) || !strings.Contains(c.Reason, "at most") || !c.WaitsUntil.Equal(l.Held.Until) {
			t.Errorf("certificate %s is held until %s because %q, want %s, %q and for how long at most", c.Name, c.WaitsUntil, c.Reason, l.Held.Until, why)
		}
	}
	t.Logf("after %s: %s", took.Round(100*time.Millisecond), l.Held)
	h.isUntouched(t, before)
	if line := heldChange.FindString(h.logged(t)); line != "" {
		t.Errorf("a line for each change that waits:\n%s", line)
	}
}

// heldChange is a line about one change that waits.
var heldChange = regexp.MustCompile(`(?m)^level=ERROR msg="change failed" .*domain=pki .*$`)

// isUntouched checks that nothing was issued.
func (h *host) isUntouched(t *testing.T, before map[string]string) {
	t.Helper()
	if now := h.serials(t); !maps.Equal(now, before) {
		t.Errorf("certificates were issued: serials %v, before %v", now, before)
	}
	h.counts(t)
}

// renewals is when the last certificate will be due.
func (h *host) renewals(t *testing.T) time.Time {
	t.Helper()
	var last time.Time
	for _, c := range h.list(t).Certificates {
		if c.RenewAt.After(last) {
			last = c.RenewAt
		}
	}
	return last
}
