package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// TestMercury goes the whole road of one host: from bare to a node that runs
// pods, through faults that nodeagent repairs, to a cluster restored from a
// snapshot. The steps build on each other, so a step that fails ends the test.
func TestMercury(t *testing.T) {
	sideBySide(t)
	l := lab.New(t)
	h := newHost(t, l)
	h.steps([]step{
		{"the fleet is valid", validFleet},
		{"a plan shows changes and writes nothing", planWritesNothing},
		{"apply makes the node ready", applyMakesReady},
		{"a pod runs and answers HTTP", podAnswers},
		{"the firewall opens what the fleet names", firewallOpens},
		{"an API server that starts denies nothing", deniesNothing},
		{"etcd's socket is root's alone, and a save goes by it", socketIsRoots},
		{"a second plan is empty and a second apply changes nothing", secondApplyChangesNothing},
		{"status tells how the host is", statusTells},
		{"run repairs a killed component", runRepairsComponents},
		{"run repairs a deleted address", runRepairsAddress},
		{"run repairs a changed sysctl", runRepairsSysctl},
		{"run repairs a deleted certificate", runRepairsCertificate},
		{"run gives way to a command while it waits", runGivesWay},
		{"a snapshot brings back what etcd lost", snapshotBringsBack},
		{"run tries by its schedule whether a snapshot restores", runDrills},
		{"the node comes back after a reboot", rebootComesBack},
	})
}

func validFleet(t *testing.T, h *host) {
	out := h.agent("validate", "/etc/nodeagent/fleet")
	t.Logf("validate says: %s", strings.TrimSpace(out))

	// The refusal comes line by line, and nothing else happens.
	if err := h.PutFile("/etc/nodeagent/broken/cluster.toml", []byte("nonsense = 1\n[kubernetes]\npod_range = 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Nodeagent(h.ctx, "validate", "/etc/nodeagent/broken"); err == nil || !strings.Contains(err.Error(), "cluster.toml:1: nonsense:") {
		t.Errorf("validate of a broken fleet: %v, want a line cluster.toml:1: nonsense: …", err)
	}
	if err := h.Remove("/etc/nodeagent/broken"); err != nil {
		t.Fatal(err)
	}
}

func planWritesNothing(t *testing.T, h *host) {
	before := observe(h)
	changes := h.plan()
	text := h.agent("plan")
	after := observe(h)
	if diff := before.diff(after); len(diff) > 0 {
		t.Errorf("a plan changed the host:\n%s", strings.Join(diff, "\n"))
	}
	domains := map[string]int{}
	for _, c := range changes {
		domains[c.Domain]++
		if c.Key == "" || c.Action == "" || c.Effect == "" || c.Reason == "" {
			t.Errorf("a change of the plan is incomplete: %+v", c)
		}
	}
	for _, domain := range []string{"kernel", "network", "pki", "units"} {
		if domains[domain] == 0 {
			t.Errorf("the plan for a bare host has no change in domain %s; it has %v", domain, domains)
		}
	}
	t.Logf("%d changes %v; the text has %d lines", len(changes), domains, strings.Count(text, "\n"))
}

func applyMakesReady(t *testing.T, h *host) {
	start := time.Now()
	t.Logf("apply says:\n%s", h.agent("apply"))
	applied := time.Since(start)
	if err := h.NodeReady(h.ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("applied after %s, node Ready after %s", applied.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	t.Logf("\n%s", h.kubectl("get", "node", "-o", "wide"))
}

func podAnswers(t *testing.T, h *host) {
	if err := h.ImportImages(h.ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.DeployHello(h.ctx); err != nil {
		t.Fatal(err)
	}
	answer, err := h.Hello(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(answer, "hello from pod hello-") {
		t.Errorf("the Service answers %q", answer)
	}
	t.Logf("%s says: %s", lab.HelloURL, answer)

	// The pod's address is from the host's pod range, its MTU the spec's.
	pod := h.kubectl("get", "pod", "-l", "app=hello", "-o", "jsonpath={.items[0].status.podIP}")
	if !strings.HasPrefix(pod, "10.244.") {
		t.Errorf("the pod's address is %q, want one in 10.244.0.0/16", pod)
	}
	if out := h.must("ip", "-o", "link", "show", "cni0"); !strings.Contains(out, "mtu 1450") {
		t.Errorf("the pods' bridge has another MTU than 1450: %s", out)
	}
	// kubectl logs goes through the API server to the kubelet: the RBAC of
	// that road is nodeagent's.
	if out, err := h.Kubectl(h.ctx, "logs", "deployment/hello"); err != nil {
		t.Errorf("kubectl logs: %v %s", err, out)
	}
}

// firewallOpens knocks from outside, as a stranger on the provider's network. All
// at once, and not as parallel tests: those would wait for every cluster that waits
// for its turn, while this one's host runs on.
func firewallOpens(t *testing.T, h *host) {
	var knocking sync.WaitGroup
	for port, open := range map[string]bool{
		"6443": true, "22": false, "2379": false, "2380": false, "10250": false, "10256": false,
	} {
		knocking.Go(func() {
			// What is dropped never answers, so the wait is the answer.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			conn, err := h.DialOutside(ctx, "tcp", net.JoinHostPort("203.0.113.10", port))
			if got := err == nil; got != open {
				t.Errorf("connecting to port %s from outside: %v, want open to be %t", port, err, open)
			}
			if err == nil {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	knocking.Wait()
}

func secondApplyChangesNothing(t *testing.T, h *host) {
	h.converged()
	before, processes := observe(h), mainPIDs(h)
	out := h.agent("apply")
	if !strings.Contains(out, "Nothing to do") {
		t.Errorf("a second apply says:\n%s", out)
	}
	for unit, pid := range mainPIDs(h) {
		if processes[unit] != pid {
			t.Errorf("a second apply restarted %s: process %s became %s", unit, processes[unit], pid)
		}
	}
	if diff := before.owned().diff(observe(h).owned()); len(diff) > 0 {
		t.Errorf("a second apply changed the host:\n%s", strings.Join(diff, "\n"))
	}
}

func statusTells(t *testing.T, h *host) {
	text := h.agent("status")
	t.Logf("\n%s", text)
	for _, unit := range components {
		if !strings.Contains(text, strings.TrimSuffix(strings.TrimPrefix(unit, layout.UnitPrefix), ".service")) {
			t.Errorf("status names no %s", unit)
		}
	}
	var status map[string]any
	if err := json.Unmarshal([]byte(h.agent("status", "-o", "json")), &status); err != nil {
		t.Errorf("status -o json: %v", err)
	}
}

func rebootComesBack(t *testing.T, h *host) {
	start := time.Now()
	if err := h.Poweroff(h.ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("off after %s", time.Since(start).Round(time.Millisecond))
	if err := h.Boot(h.ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("booted after %s", time.Since(start).Round(time.Millisecond))
	if err := h.NodeReady(h.ctx); err != nil {
		t.Fatal(err)
	}
	answer, err := h.Hello(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after the reboot: %s", answer)
	h.until(2*time.Minute, "an empty plan after the reboot", func() error {
		if changes := h.plan(); len(changes) > 0 {
			return fmt.Errorf("%d changes: %+v", len(changes), changes)
		}
		return nil
	})
}
