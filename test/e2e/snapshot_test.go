package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// snapshotBringsBack loses etcd's data and gets the cluster back from a
// snapshot: what was in it and nothing later, with controllers that work.
func snapshotBringsBack(t *testing.T, h *host) {
	h.kubectl("create", "configmap", "before", "--from-literal=written=before the snapshot")
	// A drill leaves a tenth of the disk to others, which is this machine's, and may
	// be fuller.
	h.must("sh", "-c", "mkdir -p -m 0700 "+onHost.Scratch()+" && mount -t tmpfs -o size=1g,mode=0700 tmpfs "+onHost.Scratch())
	for _, section := range []string{"How etcd begins", "Taking a snapshot", "Knowing that it restores"} {
		for _, block := range guide(t, "etcd.md", section) {
			h.follow(block)
		}
	}
	// nodeagent is stopped so that the newest snapshot is this one and what follows
	// is in the hands of whoever restores.
	h.must("systemctl", "stop", "nodeagent.service")
	file := h.snapshot()
	h.kubectl("create", "configmap", "after", "--from-literal=written=after the snapshot")
	h.kubectl("scale", "deployment/hello", "--replicas=2")

	refusesBadSnapshot(t, h, file)

	disaster := time.Now()
	h.must("systemctl", "stop", layout.Unit(layout.KubeProxy), layout.Unit(layout.APIServer), layout.Unit(layout.Etcd))
	h.must("sh", "-c", "rm -rf "+onHost.EtcdData()+"/*")
	t.Logf("everything stopped and etcd's data deleted in %s", time.Since(disaster).Round(time.Millisecond))

	// An empty data folder must not become a second, empty cluster.
	refusal := time.Now()
	if out, err := h.Nodeagent(h.ctx, "apply"); err == nil {
		t.Fatalf("apply with etcd's data lost succeeded:\n%s", out)
	} else if !strings.Contains(err.Error(), "snapshot restore") {
		t.Errorf("apply with etcd's data lost says %q; it does not name the way back", err)
	} else if !strings.Contains(err.Error(), layout.Unit(layout.KubeProxy)+": not started: "+layout.Unit(layout.APIServer)+" is not ready") {
		t.Errorf("apply with etcd's data lost says %q; it does not say that kube-proxy waits for the API server", err)
	}
	t.Logf("apply refused after %s", time.Since(refusal).Round(time.Millisecond))

	start := time.Now()
	for _, block := range guide(t, "etcd.md", "Restoring") {
		h.follow(block)
	}
	t.Logf("restored after %s", time.Since(start).Round(time.Millisecond))
	h.settled()
	checkRestored(t, h)
}

func checkRestored(t *testing.T, h *host) {
	if got := h.kubectl("get", "configmap", "before", "-o", "jsonpath={.data.written}"); got != "before the snapshot" {
		t.Errorf("configmap before says %q", got)
	}
	if out, err := h.Kubectl(h.ctx, "get", "configmap", "after"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("configmap after was written after the snapshot, and is there: %s (%v)", out, err)
	}
	if got := h.kubectl("get", "deployment", "hello", "-o", "jsonpath={.spec.replicas}"); got != "1" {
		t.Errorf("deployment hello wants %s replicas, it had 1 in the snapshot", got)
	}
	if err := h.ScaleHello(h.ctx, 3, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hello(h.ctx); err != nil {
		t.Error(err)
	}
	h.kubectl("scale", "deployment/hello", "--replicas=1")
}

// runDrills lets the service make a drill by its schedule, which disturbs nothing
// and leaves nothing but its record.
func runDrills(t *testing.T, h *host) {
	const file = "/etc/nodeagent/fleet/mercury.toml"
	before, processes := h.must("cat", file), mainPIDs(h)
	change := func(text string) {
		if err := h.PutFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change(before + "\n[snapshots]\ndrill = \"*:*:00/10\"\ndrill_spread = \"0s\"\n")
	start := time.Now()
	var last *etcdops.DrillReport
	h.until(3*time.Minute, "a drill by the schedule", func() error {
		var status struct {
			Snapshots struct{ Drill *agent.DrillStatus }
		}
		if err := json.Unmarshal([]byte(h.agent("status", "-o", "json")), &status); err != nil {
			return err
		}
		d := status.Snapshots.Drill
		if d == nil || d.Last == nil || d.Last.Began.Before(start.Truncate(time.Second)) || !d.Last.Good() {
			return fmt.Errorf("the last drill: %+v", d)
		}
		last = d.Last
		return nil
	})
	change(before)
	t.Logf("%s: revision %d, %d keys, RPO %.0f s, RTO %.2f s, after %s", last.Snapshot, last.Revision, last.Keys, last.RPOSeconds, last.Seconds.RTO(), time.Since(start).Round(time.Millisecond))
	h.until(time.Minute, "the drills to end", func() error {
		left, err := h.Exec(h.ctx, "find", onHost.Scratch(), "-mindepth", "1", "-not", "-name", "drill.lock")
		if err == nil && left != "" {
			err = errors.New(left)
		}
		return err
	})
	for unit, pid := range mainPIDs(h) {
		if processes[unit] != pid {
			t.Errorf("the drill restarted %s", unit)
		}
	}
	h.settled()
}

// snapshot takes a snapshot, checks that the list has it, and returns its
// path on the host.
func (h *host) snapshot() string {
	h.t.Helper()
	var saved struct {
		Path string `json:"path"`
	}
	out := h.agent("snapshot", "save", "-o", "json")
	if err := json.Unmarshal([]byte(out), &saved); err != nil || saved.Path == "" {
		h.t.Fatalf("snapshot save -o json (%v) says:\n%s", err, out)
	}
	list := h.agent("snapshot", "list")
	if !strings.Contains(list, saved.Path[strings.LastIndexByte(saved.Path, '/')+1:]) {
		h.t.Errorf("snapshot list has no %s:\n%s", saved.Path, list)
	}
	h.t.Logf("%s", strings.TrimSpace(h.agent("snapshot", "verify", saved.Path)))
	return saved.Path
}

// refusesBadSnapshot offers damaged files; each must be refused while the
// cluster stays as it is.
func refusesBadSnapshot(t *testing.T, h *host, file string) {
	processes := mainPIDs(h)
	for name, damage := range map[string]string{
		"truncated":    "head -c -1000 " + file,
		"flipped bit":  "{ head -c 9000 " + file + "; printf '\\377'; tail -c +9002 " + file + "; }",
		"no trailer":   "head -c -32 " + file,
		"an HTML page": "echo '<!DOCTYPE html><html><body>502 Bad Gateway</body></html>'",
	} {
		const bad = "/var/lib/bad.db"
		h.must("sh", "-c", damage+" >"+bad)
		for _, args := range [][]string{{"snapshot", "verify", bad}, {"snapshot", "restore", bad, "--yes"}} {
			if out, err := h.Nodeagent(h.ctx, args...); err == nil {
				t.Fatalf("%s: nodeagent %s succeeded:\n%s", name, strings.Join(args, " "), out)
			}
		}
		if err := h.Remove(bad); err != nil {
			t.Fatal(err)
		}
	}
	for unit, pid := range mainPIDs(h) {
		if processes[unit] != pid {
			t.Errorf("a refused restore restarted %s", unit)
		}
	}
}
