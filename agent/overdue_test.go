package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

func TestOverdue(t *testing.T) {
	schedule := mustParse(t, "*-*-* 00/6:00:00")
	at := func(hour, minute int) time.Time { return time.Date(2026, 5, 1, hour, minute, 0, 0, time.UTC) }
	for _, tc := range []struct {
		name        string
		newest, now time.Time
		want        bool
	}{
		{"nothing to save yet", time.Time{}, at(23, 0), false},
		{"not due", at(0, 1), at(5, 0), false},
		{"one moment passed, it may be under way", at(0, 1), at(11, 59), false},
		{"two moments passed", at(0, 1), at(12, 1), true},
	} {
		if got := overdue(schedule, tc.newest, tc.now); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestStatusTellsOverdueSnapshots: a host on which nobody takes the snapshots,
// because the service is not enabled, is not healthy.
func TestStatusTellsOverdueSnapshots(t *testing.T) {
	root := layout.Root(t.TempDir())
	spec := &hosts.Spec{Name: "h", Cluster: "c", Roles: []hosts.Role{hosts.RoleEtcd}}
	spec.Snapshots = hosts.Snapshots{Schedule: "*-*-* 00/6:00:00", Keep: hosts.Retention{Last: 1}, Destination: t.TempDir()}
	h := &Host{root: root}
	h.spec.Store(spec)
	if s := h.snapshotStatus(t.Context()); s.Overdue {
		t.Error("overdue before etcd has run")
	}
	if err := etcdops.MarkInitialised(root, time.Now()); err != nil {
		t.Fatal(err)
	}
	days := time.Now().AddDate(0, 0, -2)
	if err := os.Chtimes(root.EtcdMarker(), days, days); err != nil {
		t.Fatal(err)
	}
	s := Status{Snapshots: h.snapshotStatus(t.Context())}
	if problems := strings.Join(s.problems(spec, nil), "\n"); !strings.Contains(problems, "overdue") {
		t.Errorf("two days without a snapshot are no problem: %q", problems)
	}
}
