package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// The versions are builds of no release, so that their notes are what the
// changelog has as unreleased.
const (
	firstVersion  = "0.1.0-1-g1111111"
	secondVersion = "0.1.0-2-g2222222"

	// As docs/guides/first-host.md names them.
	firstPackage  = "/root/nodeagent_first.deb"
	secondPackage = "/root/second.deb"
	aFleet        = "/root/my-fleet"

	dataPath  = "/var/lib/nodeagent/etcd"
	fleetPath = "/etc/nodeagent/fleet"
)

// TestPackage takes the Debian package through its life on a host of its own, at
// first as docs/guides/first-host.md has it: installed, it does nothing; with a
// fleet it makes the host; an upgrade changes the agent and nothing else; removed and purged, it leaves the cluster running;
// installed again, it finds nothing to do.
func TestPackage(t *testing.T) {
	sideBySide(t)
	l := lab.New(t)
	packages := buildPackages(t, l, firstVersion, secondVersion)
	h := newHost(t, l)
	for i, file := range packages {
		if err := h.PutCopy(file, []string{firstPackage, secondPackage}[i]); err != nil {
			t.Fatal(err)
		}
	}
	// The lab's own way to install nodeagent, and the fleet, which comes later.
	h.must("rm", "/usr/local/bin/nodeagent", "/etc/systemd/system/nodeagent.service")
	h.must("mv", fleetPath, aFleet)
	h.must("rmdir", "/etc/nodeagent")
	h.steps([]step{
		{"installed it does nothing", installedDoesNothing},
		{"with a fleet it makes the host", packageMakesHost},
		{"an upgrade changes the agent alone", upgradeChangesAgent},
		{"removed it leaves what runs", removedLeavesRunning},
		{"purged it leaves all data", purgedLeavesData},
		{"installed again it finds nothing to do", installedAgain},
	})
}

// buildPackages makes a package of each version, as make deb does.
func buildPackages(t *testing.T, l *lab.Lab, versions ...string) []string {
	t.Helper()
	var packages []string
	for _, version := range versions {
		dir := t.TempDir()
		cmd := exec.Command("make", "--no-print-directory", "deb", "VERSION="+version, "BIN="+dir)
		cmd.Dir = l.Builder.Root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make deb: %v\n%s", err, out)
		}
		found, err := filepath.Glob(filepath.Join(dir, "nodeagent_*_"+runtime.GOARCH+".deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("make deb made %q (%v), want one package", found, err)
		}
		packages = append(packages, found[0])
	}
	return packages
}

func installedDoesNothing(t *testing.T, h *host) {
	before := observe(h)
	out := h.follow(guide(t, "first-host.md", "Making it so")[0][:1])
	for _, line := range []string{fleetPath, "nodeagent plan", "systemctl enable --now nodeagent"} {
		if !strings.Contains(out, line) {
			t.Errorf("the next step %q is not told", line)
		}
	}
	for _, line := range before.diff(observe(h)) {
		_, thing, _ := strings.Cut(line, " ")
		// Its own files, dpkg's notes of them, and the unit that can be enabled now.
		if !packaged(thing) {
			t.Errorf("installing changed the host: %s", line)
		}
	}
	h.agentIs(agentState{enabled: "disabled", active: "inactive"})
	if out := h.must("nodeagent", "--version"); !strings.Contains(out, firstVersion) {
		t.Errorf("the program is %s", out)
	}
	for _, path := range []string{
		"/usr/share/bash-completion/completions/nodeagent", "/usr/share/zsh/vendor-completions/_nodeagent",
		"/usr/share/fish/vendor_completions.d/nodeagent.fish", "/usr/share/doc/nodeagent/copyright",
		"/usr/share/man/man1/nodeagent.1.gz", "/usr/share/man/man5/nodeagent-spec.5.gz",
	} {
		h.must("test", "-s", path)
	}
	h.must("nodeagent", "validate", "/usr/share/doc/nodeagent/examples/fleets/mercury")
}

// packaged tells whether a thing of an observation comes of dpkg's work.
func packaged(thing string) bool {
	for _, own := range []string{
		"file var/lib/apt", "file var/cache/apt", "file var/log/apt", "file usr/bin/nodeagent", "file usr/lib/systemd/system", "file usr/share/", "file etc/nodeagent", "file var/lib/dpkg", "file var/log/dpkg.log",
		"file var/lib/systemd", "file etc:", "file usr/bin:", "unit file nodeagent.service", "unit nodeagent.service",
	} {
		if strings.HasPrefix(thing, own) {
			return true
		}
	}
	return false
}

func packageMakesHost(t *testing.T, h *host) {
	h.follow(guide(t, "first-host.md", "Making it so")[0][1:])
	h.healthy()
	if err := h.NodeReady(h.ctx); err != nil {
		t.Fatal(err)
	}
	if out := h.follow(guide(t, "first-host.md", "Looking at it")[0]); !strings.Contains(out, " Ready ") {
		t.Errorf("no node is Ready:\n%s", out)
	}
	h.agentIs(agentState{enabled: "enabled", active: "active"})
}

// upgradeChangesAgent upgrades over a connection that must outlive it.
func upgradeChangesAgent(t *testing.T, h *host) {
	ctx, cancel := context.WithTimeout(h.ctx, time.Minute)
	defer cancel()
	plain, err := h.DialOutside(ctx, "tcp", "203.0.113.10:6443")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	conn := tls.Client(plain, &tls.Config{InsecureSkipVerify: true}) // it is the connection that counts
	answers := bufio.NewReader(conn)
	ready := func() error {
		if _, err := fmt.Fprint(conn, "GET /readyz HTTP/1.1\r\nHost: mercury\r\n\r\n"); err != nil {
			return err
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		_, err = io.Copy(io.Discard, answer.Body)
		return err
	}
	if err := ready(); err != nil {
		t.Fatal(err)
	}
	before, agent := mainPIDs(h), h.agentPID()

	t.Logf("dpkg says:\n%s", h.must("dpkg", "--install", secondPackage))
	h.until(30*time.Second, "the new agent", func() error {
		if now := h.agentPID(); now == agent || now == "0" {
			return fmt.Errorf("the agent is process %s, and was %s", now, agent)
		}
		return nil
	})
	h.healthy()
	if program := strings.TrimSpace(h.must("readlink", "/proc/"+h.agentPID()+"/exe")); program != "/usr/bin/nodeagent" {
		t.Errorf("the agent that runs is %s", program)
	}
	if out := h.must("nodeagent", "--version"); !strings.Contains(out, secondVersion) {
		t.Errorf("after the upgrade the program is %s", out)
	}
	h.sameProcesses(before)
	if err := ready(); err != nil {
		t.Errorf("a connection that was open before the upgrade: %v", err)
	}
}

func removedLeavesRunning(t *testing.T, h *host) {
	before := mainPIDs(h)
	out := h.must("dpkg", "--remove", "nodeagent")
	t.Logf("dpkg says:\n%s", out)
	if !strings.Contains(out, "as they were") {
		t.Error("nobody is told that components and data stay")
	}
	h.agentIs(agentState{enabled: "not-found", active: "inactive"})
	h.must("test", "!", "-e", "/usr/bin/nodeagent")
	h.must("test", "-e", fleetPath+"/cluster.toml")
	h.sameProcesses(before)
	// What a unit asks of the program that is gone is no condition of its start.
	h.must("systemctl", "restart", layout.Unit(layout.APIServer))
	if err := h.NodeReady(h.ctx); err != nil {
		t.Error(err)
	}
	h.leadersGoOn(time.Now())
}

func purgedLeavesData(t *testing.T, h *host) {
	before, data := mainPIDs(h), h.must("find", dataPath, "-name", "db", "-printf", "%p %i\n")
	out := h.must("dpkg", "--purge", "nodeagent")
	t.Logf("dpkg says:\n%s", out)
	if !strings.Contains(out, "/var/lib/nodeagent stays") {
		t.Error("nobody is told what stays")
	}
	for _, gone := range []string{"/etc/nodeagent", "/var/lib/nodeagent/fleet", "/etc/systemd/system/multi-user.target.wants/nodeagent.service"} {
		h.must("sh", "-c", "! test -e "+gone+" && ! test -L "+gone)
	}
	if now := h.must("find", dataPath, "-name", "db", "-printf", "%p %i\n"); now != data || data == "" {
		t.Errorf("etcd's data are %q, and were %q", now, data)
	}
	h.must("test", "-d", "/var/lib/nodeagent/pki/keys")
	h.sameProcesses(before)
}

func installedAgain(t *testing.T, h *host) {
	before := mainPIDs(h)
	h.must("dpkg", "--install", firstPackage)
	h.agentIs(agentState{enabled: "disabled", active: "inactive"})
	refusedWhileOnTrial(t, h)
	h.must("cp", "-r", aFleet, fleetPath)
	h.until(time.Minute, "an empty plan", func() error {
		out, err := h.Exec(h.ctx, "nodeagent", "plan", "--exit-code")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	h.must("systemctl", "enable", "--now", "nodeagent")
	h.healthy()
	h.sameProcesses(before)
}

// refusedWhileOnTrial: a package whose agent is to take a change of the network
// back cannot be removed.
func refusedWhileOnTrial(t *testing.T, h *host) {
	attempt := onHost.Confirm() + "/attempt.json"
	h.must("touch", attempt)
	out, err := h.Exec(h.ctx, "dpkg", "--remove", "nodeagent")
	if err == nil || !strings.Contains(err.Error(), "nodeagent rollback") {
		t.Errorf("removing while a change of the network is on trial: %v\n%s", err, out)
	}
	h.must("rm", attempt)
	if state := h.must("dpkg-query", "--show", "--showformat", "${db:Status-Status}", "nodeagent"); state != "installed" {
		t.Errorf("after a refused removal the package is %s", state)
	}
}

// healthy waits until nodeagent says that the host is as the fleet says.
func (h *host) healthy() {
	h.t.Helper()
	h.until(2*time.Minute, "a host that is converged and healthy", func() error {
		out, err := h.Exec(h.ctx, "nodeagent", "status", "-o", "json")
		var status struct {
			Converged, Healthy bool
			Problems           []string
		}
		if wrong := json.Unmarshal([]byte(out), &status); wrong != nil {
			return errors.Join(err, wrong)
		}
		if !status.Converged || !status.Healthy {
			return fmt.Errorf("converged: %t, healthy: %t, problems: %q", status.Converged, status.Healthy, status.Problems)
		}
		return nil
	})
}

// agentState is what systemd says of nodeagent.service.
type agentState struct{ enabled, active string }

func (h *host) agentIs(want agentState) {
	h.t.Helper()
	// Both answer with an exit code of their own for what is not enabled or active.
	enabled, _ := h.Exec(h.ctx, "systemctl", "is-enabled", "nodeagent")
	active, _ := h.Exec(h.ctx, "systemctl", "is-active", "nodeagent")
	got := agentState{strings.TrimSpace(enabled), strings.TrimSpace(active)}
	if want.enabled == "not-found" { // told on standard error alone
		want.enabled = ""
	}
	if got != want {
		h.t.Errorf("nodeagent.service is %+v, want %+v", got, want)
	}
}

func (h *host) agentPID() string {
	h.t.Helper()
	return strings.TrimSpace(h.must("systemctl", "show", "--property=MainPID", "--value", "nodeagent"))
}

// sameProcesses fails the test if a component was restarted or stopped.
func (h *host) sameProcesses(before map[string]string) {
	h.t.Helper()
	if now := mainPIDs(h); !maps.Equal(before, now) {
		h.t.Errorf("the components' processes are %v, and were %v", now, before)
	}
}
