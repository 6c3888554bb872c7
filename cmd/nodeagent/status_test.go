package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

func sampleStatus() agent.Status {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	days := 89
	good := etcdops.DrillReport{Began: now.Add(-26 * time.Hour), Ended: now.Add(-25 * time.Hour), RPOSeconds: 7260, Seconds: etcdops.DrillSeconds{Verify: 0.5, Boot: 0.25}}
	failed := etcdops.DrillReport{Began: now.Add(-2 * time.Hour), Ended: now.Add(-time.Hour), Failed: etcdops.DrillBoot, Error: "it ended"}
	return agent.Status{
		Host: "mercury", Cluster: "mercury", Spec: "sha256:ab", Fleet: "/etc/fleet", Time: now,
		Problems: []string{"kubelet is not ready: it failed"},
		Domains: []agent.DomainStatus{
			{Name: "kernel", Converged: true},
			{Name: "network", Changes: []plan.Change{{Action: plan.ActionCreate, Key: "address 192.0.2.1/24 on eth0", Reason: "the host lacks it"}}},
		},
		Components: []agent.ComponentStatus{
			{Name: "etcd", State: "active", Ready: true, Since: now.Add(-90 * time.Second), MemoryBytes: 40 << 20},
			{Name: "kubelet", State: "failed", Restarts: 3},
		},
		Certificates: []pki.Status{{Name: "etcd-server", CA: "etcd-server", CommonName: "mercury", NotAfter: now.Add(89 * 24 * time.Hour), RenewAt: now.Add(59 * 24 * time.Hour), State: pki.StateOK}},
		Issuer:       &agent.IssuerStatus{Kind: "vault", Address: "https://vault.example:8200", SurvivesUntil: now.Add(89 * 24 * time.Hour), SurvivesDays: &days, FirstToEnd: "etcd-server", LastAnswer: now.Add(-2 * time.Minute)},
		Etcd:         &agent.EtcdStatus{Health: etcdops.Health{Healthy: true, Leader: "mercury", Members: []etcdops.MemberHealth{{Name: "mercury", Endpoint: "x", Version: "3.7.3", Revision: 7, DBSize: 1 << 20}}}},
		Snapshots: &agent.SnapshotStatus{
			Folder: "/s", Count: 1, Newest: &etcdops.Entry{Taken: now.Add(-time.Hour), Size: 1 << 10}, Next: now.Add(time.Hour),
			Drill: &agent.DrillStatus{Last: &failed, Good: &good, Next: now.Add(5 * time.Hour)},
		},
	}
}

// TestTablesOnlyOnTerminals prints the same status to a terminal's screen and
// to a pipe's.
func TestTablesOnlyOnTerminals(t *testing.T) {
	for _, tc := range []struct {
		name string
		out  screen
		want string
	}{
		{"pipe", screen{}, `mercury of cluster mercury: not converged, not healthy
spec sha256:ab
fleet /etc/fleet
! kubelet is not ready: it failed
domain	kernel	converged
domain	network	1 change to make
domain		create address 192.0.2.1/24 on eth0: the host lacks it
component	etcd	active	1m 30s	40.0 MiB	0 restarts	ready
component	kubelet	failed	-	-	3 restarts	not ready
certificate	etcd-server	ends in 89d 0h	renews in 59d 0h	ok
issuer	vault at https://vault.example:8200	this host lives without it for 89 days, until etcd-server ends on 2026-07-29 12:00 UTC	last answered 2m 0s ago
cluster	etcd	healthy, 3.7.3, revision 7, database 1.0 MiB, leader mercury, 1 member
cluster	snapshots	newest 1h 0m ago, 1.0 KiB, 1 in /s; next in 1h 0m
cluster	drill	failed: boot, 2h 0m ago; the last good one 1d 2h ago, RPO 2h 1m, RTO 0.75s; next in 5h 0m
`},
		{"terminal", screen{table: true}, `mercury of cluster mercury: not converged, not healthy
spec sha256:ab
fleet /etc/fleet
! kubelet is not ready: it failed

DOMAIN
  kernel   converged
  network  1 change to make
           create address 192.0.2.1/24 on eth0: the host lacks it

COMPONENT
  etcd     active  1m 30s  40.0 MiB  0 restarts  ready
  kubelet  failed  -       -         3 restarts  not ready

CERTIFICATE
  etcd-server  ends in 89d 0h  renews in 59d 0h  ok

ISSUER
  vault at https://vault.example:8200  this host lives without it for 89 days, until etcd-server ends on 2026-07-29 12:00 UTC  last answered 2m 0s ago

CLUSTER
  etcd       healthy, 3.7.3, revision 7, database 1.0 MiB, leader mercury, 1 member
  snapshots  newest 1h 0m ago, 1.0 KiB, 1 in /s; next in 1h 0m
  drill      failed: boot, 2h 0m ago; the last good one 1d 2h ago, RPO 2h 1m, RTO 0.75s; next in 5h 0m
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			tc.out.w = &b
			if err := printStatus(tc.out, sampleStatus()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	var colored strings.Builder
	if err := printStatus(screen{w: &colored, table: true, color: true}, sampleStatus()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(colored.String(), "\x1b[32mready\x1b[0m") || !strings.Contains(colored.String(), "\x1b[31mnot ready\x1b[0m") {
		t.Errorf("colours are missing:\n%q", colored.String())
	}
}

func TestBytesAndAge(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB", 5000 << 40: "5000.0 TiB"} {
		if got := bytes(n); got != want {
			t.Errorf("bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 61 * time.Second: "1m 1s", 25 * time.Hour: "1d 1h", -90 * time.Minute: "-1h 30m"} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
}
