package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/pki"
)

// statusPatience bounds each question that status asks over the network.
const statusPatience = 5 * time.Second

// Service is the unit of the agent itself, which `nodeagent run` is.
const Service = "nodeagent.service"

// Status is how a host is at one moment. Its JSON keys are stable.
type Status struct {
	Host    string    `json:"host"`
	Cluster string    `json:"cluster"`
	Spec    string    `json:"spec"`  // the digest of the fleet's files
	Fleet   string    `json:"fleet"` // where they lie, behind all links
	Time    time.Time `json:"time"`
	// Converged: a plan of every domain is empty. Healthy: every unit is ready,
	// every certificate is usable, etcd answers, the node is Ready.
	Converged bool `json:"converged"`
	Healthy   bool `json:"healthy"`

	Domains      []DomainStatus    `json:"domains"`
	Components   []ComponentStatus `json:"components"`
	Certificates []pki.Status      `json:"certificates"`
	// Held is that nothing is issued because of the clock.
	Held      *pki.Hold            `json:"held,omitempty"`
	Issuer    *IssuerStatus        `json:"issuer,omitempty"`
	Etcd      *EtcdStatus          `json:"etcd,omitempty"`
	Nodes     []cluster.NodeStatus `json:"nodes"`
	Snapshots *SnapshotStatus      `json:"snapshots,omitempty"`
	Floating  []FloatingStatus     `json:"floating,omitempty"`
	// Confirm is a change of the network that awaits confirmation or was undone.
	Confirm *ConfirmStatus `json:"confirm,omitempty"`
	// Problems are what makes the host not healthy, a line each.
	Problems []string `json:"problems"`
	// Warnings are what a person should know, though nothing fails, a line each.
	Warnings []string `json:"warnings"`
}

// DomainStatus is how far one domain is from the spec.
type DomainStatus struct {
	Name      string        `json:"name"`
	Converged bool          `json:"converged"`
	Changes   []plan.Change `json:"changes"`
	// Drift is "report" where the changes are what `run` tells of and does not
	// make.
	Drift string `json:"drift,omitempty"`
	Error string `json:"error,omitempty"`
}

// ComponentStatus is one unit.
type ComponentStatus struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// State is systemd's: active, activating, failed, inactive …
	State string `json:"state"`
	Ready bool   `json:"ready"`
	// Problem says why it is not ready.
	Problem     string    `json:"problem,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Restarts    int       `json:"restarts"`
	MemoryBytes uint64    `json:"memoryBytes"`
	// DropIns are files of somebody else's that change what the unit does.
	DropIns []string `json:"dropIns,omitempty"`
}

// EtcdStatus is etcd as this host's member tells it.
type EtcdStatus struct {
	etcdops.Health
	Error string `json:"error,omitempty"`
}

// SnapshotStatus is the spec's folder of snapshots.
type SnapshotStatus struct {
	Folder string         `json:"folder"`
	Count  int            `json:"count"`
	Newest *etcdops.Entry `json:"newest,omitempty"`
	// Shared is the last one that a host of the cluster has taken for all, where
	// one does; it lies on that host.
	Shared *etcdops.Taken `json:"shared,omitempty"`
	// Next is when the schedule calls for the next one; zero without a schedule.
	Next time.Time `json:"next,omitzero"`
	// Overdue tells that the schedule has called for several snapshots that
	// nobody took.
	Overdue bool   `json:"overdue"`
	Error   string `json:"error,omitempty"`
	// Copies are the further places, as they were when they were last asked.
	Copies []CopyStatus `json:"copies,omitempty"`
	// Drill is whether snapshots restore, as far as it was tried.
	Drill *DrillStatus `json:"drill"`
}

// Status looks at everything at once. What cannot be found out is said in the
// part concerned; it never fails as a whole.
func (h *Host) Status(ctx context.Context) Status {
	spec := h.Spec()
	s := Status{Host: spec.Name, Cluster: spec.Cluster, Spec: spec.Digest, Fleet: spec.Fleet, Time: time.Now().UTC(), Nodes: []cluster.NodeStatus{}, Problems: []string{}}
	var nodesErr, serviceErr error
	var alarms []pki.Alarm
	var parts sync.WaitGroup
	parts.Go(func() { serviceErr = h.systemd.Check(ctx, units.Unit{Name: Service}) })
	parts.Go(func() { s.Domains = h.domainStatus(ctx) })
	parts.Go(func() { s.Components = h.componentStatus(ctx) })
	parts.Go(func() { alarms = h.certificateStatus(ctx, &s) })
	if spec.Has(hosts.RoleEtcd) {
		parts.Go(func() { s.Etcd = h.etcdStatus(ctx) })
		parts.Go(func() { s.Snapshots = h.snapshotStatus(ctx) })
	}
	if spec.Has(hosts.RoleControlPlane) {
		parts.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusPatience)
			defer cancel()
			var nodes []cluster.NodeStatus
			if nodes, nodesErr = h.nodes(ctx); nodes != nil {
				s.Nodes = nodes
			}
		})
	}
	parts.Wait()
	s.Converged = !slices.ContainsFunc(s.Domains, func(d DomainStatus) bool { return !d.Converged })
	s.Floating = h.Floating()
	s.Problems = s.problems(spec, nodesErr)
	s.Confirm = h.confirmStatus()
	s.Problems = append(s.Problems, s.Confirm.problems()...)
	s.Problems = append(s.Problems, h.loginProblems()...)
	s.Problems = append(s.Problems, h.signerProblems()...)
	problems, warnings := s.certificateTrouble(alarms)
	s.Problems = append(s.Problems, problems...)
	s.Healthy = len(s.Problems) == 0
	s.Warnings = slices.Concat(s.warnings(serviceErr), warnings, s.driftWarnings(), h.NetworkWarnings(ctx))
	return s
}

func (h *Host) domainStatus(ctx context.Context) []DomainStatus {
	var list []DomainStatus
	for _, d := range h.Domains() {
		changes, err := d.Plan(ctx)
		status := DomainStatus{Name: d.Name(), Converged: err == nil && len(changes) == 0, Changes: changes}
		if h.reports(d.Name()) && len(changes) > 0 {
			status.Drift = string(hosts.DriftReport)
		}
		if status.Changes == nil {
			status.Changes = []plan.Change{}
		}
		if err != nil {
			status.Error = err.Error()
		}
		list = append(list, status)
	}
	return list
}

func (h *Host) componentStatus(ctx context.Context) []ComponentStatus {
	want := h.wantUnits()
	have, observeErr := h.systemd.ObserveFigures(ctx, want)
	list := make([]ComponentStatus, len(want.Units))
	var checks sync.WaitGroup
	for i, u := range want.Units {
		c := &list[i]
		*c = ComponentStatus{Name: componentOf(u.Name), Unit: u.Name, State: "not installed"}
		at := slices.IndexFunc(have.Units, func(h units.Unit) bool { return h.Name == u.Name })
		if at < 0 {
			if observeErr != nil {
				c.State, c.Problem = "unknown", observeErr.Error()
			}
			continue
		}
		d := have.Units[at].Detail
		c.State, c.Since, c.Restarts, c.MemoryBytes = cmp.Or(d.ActiveState, "inactive"), d.Since, d.Restarts, d.MemoryBytes
		c.DropIns = d.DropIns
		checks.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, statusPatience)
			defer cancel()
			if err := h.systemd.Check(ctx, u); err != nil {
				c.Problem = err.Error()
				return
			}
			c.Ready = true
		})
	}
	checks.Wait()
	return list
}

// componentOf is the component whose unit has the name.
func componentOf(unit string) string {
	return strings.TrimSuffix(strings.TrimPrefix(unit, layout.UnitPrefix), ".service")
}

// certificateStatus fills in what is about certificates.
func (h *Host) certificateStatus(ctx context.Context, s *Status) []pki.Alarm {
	// What could not be read is damaged or missing in the list itself.
	have, err := h.observePKI(ctx)
	want, now := pki.Want(h.Spec()), time.Now()
	list := append(pki.List(have, want, now), pki.Authorities(have, want, now)...)
	if err != nil {
		for i := range list {
			if list[i].State != pki.StateOK && list[i].Reason == "" {
				list[i].Reason = err.Error()
			}
		}
	}
	s.Certificates, s.Held, s.Issuer = list, pki.HeldBack(have, want, now), h.issuerStatus(have, want, now)
	return pki.Alarms(have, want, now)
}

// certificateTrouble is what certificates, their CAs and their issuer are about
// to be: problems where renewing fails already.
func (s Status) certificateTrouble(alarms []pki.Alarm) (problems, warnings []string) {
	if s.Held != nil {
		warnings = append(warnings, s.Held.String())
	}
	for _, a := range alarms {
		if a.Now {
			problems = append(problems, a.Text)
		} else {
			warnings = append(warnings, a.Text)
		}
	}
	problem, warning := s.Issuer.judge(s.Certificates)
	if problem != "" {
		problems = append(problems, problem)
	}
	if warning != "" {
		warnings = append(warnings, warning)
	}
	return problems, warnings
}

// waits tells whether a certificate that is valid is only held back for the
// clock.
func waits(c pki.Status, now time.Time) bool {
	return c.State == pki.StateHeld && !c.RenewAt.IsZero() && !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

func (h *Host) etcdStatus(ctx context.Context) *EtcdStatus {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	health, err := etcdops.AskHealth(ctx, EtcdTLS(h.root), []string{localEtcd(h.Spec())})
	s := &EtcdStatus{Health: health}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

func (h *Host) snapshotStatus(ctx context.Context) *SnapshotStatus {
	spec := h.Spec()
	s := &SnapshotStatus{Folder: spec.Snapshots.Destination, Copies: h.Copies().Status()}
	entries, err := etcdops.List(s.Folder)
	if err != nil {
		s.Error = err.Error()
	}
	s.Count = len(entries)
	now := time.Now()
	var newest time.Time
	if e, ok := newestOwn(entries, spec, now); ok {
		s.Newest, newest = &e, e.Taken
	}
	if s.Shared = h.sharedSnapshot(ctx, now); s.Shared != nil && s.Shared.At.After(newest) {
		newest = s.Shared.At
	}
	s.Drill = h.drillStatus(now)
	schedule, parseErr := calendar.Parse(spec.Snapshots.Schedule)
	if parseErr != nil || err != nil {
		return s // without a schedule nothing is due
	}
	s.Next = nextSnapshot(schedule, newest, now)
	since := newest
	if marker, err := os.Stat(h.root.EtcdMarker()); err == nil && since.IsZero() {
		since = marker.ModTime() // when there was first something to save
	}
	s.Overdue = overdue(schedule, since, now)
	return s
}

// problems lists what makes the host not healthy.
func (s Status) problems(spec *hosts.Spec, nodesErr error) []string {
	list := []string{}
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, c := range s.Components {
		if !c.Ready {
			add("%s is not ready: %s", c.Name, cmp.Or(c.Problem, c.State))
		}
	}
	for _, c := range s.Certificates {
		if c.State != pki.StateOK && c.State != pki.StateDue && !waits(c, s.Time) {
			add("certificate %s is %s: %s", c.Name, c.State, c.Reason)
		}
	}
	if s.Etcd != nil {
		if s.Etcd.Error != "" || !s.Etcd.Healthy {
			add("etcd is not healthy: %s", cmp.Or(s.Etcd.Error, "no quorum"))
		}
		for _, alarm := range s.Etcd.Alarms {
			add("etcd has an alarm: %s", alarm)
		}
	}
	for _, f := range s.Floating {
		if f.Err != "" {
			add("floating address %s: %s", f.Name, f.Err)
		}
	}
	if s.Snapshots != nil && s.Snapshots.Error != "" {
		add("snapshots: %s", s.Snapshots.Error)
	}
	if s.Snapshots != nil {
		for _, c := range s.Snapshots.Copies {
			list = append(list, c.problems()...)
		}
	}
	if s.Snapshots != nil && s.Snapshots.Overdue {
		add("snapshots are overdue: the schedule called for more than one since the newest; nodeagent.service takes them: systemctl status nodeagent")
	}
	if s.Snapshots != nil && s.Snapshots.Drill.Problem != "" {
		list = append(list, s.Snapshots.Drill.Problem)
	}
	if nodesErr != nil {
		add("the API server does not tell its nodes: %s", nodesErr)
	}
	if spec.Has(hosts.RoleWorker) && nodesErr == nil && spec.Has(hosts.RoleControlPlane) {
		list = append(list, nodeProblems(s.Nodes, spec.Name, spec.Kubernetes.Version)...)
	}
	return list
}

// warnings lists what changes a component behind nodeagent's back.
func (s Status) warnings(serviceErr error) []string {
	list := []string{}
	if serviceErr != nil {
		list = append(list, fmt.Sprintf("%s does not run: drift is not repaired, certificates are not renewed, no snapshots are taken (systemctl enable --now nodeagent)", Service))
	}
	for _, c := range s.Components {
		for _, path := range c.DropIns {
			list = append(list, fmt.Sprintf("%s changes what %s does; nodeagent did not write it and does not look into it", path, c.Name))
		}
	}
	return list
}

// driftWarnings lists the domains whose drift is only reported.
func (s Status) driftWarnings() []string {
	var list []string
	for _, d := range s.Domains {
		if d.Drift != "" {
			list = append(list, fmt.Sprintf("the %s differs from the spec (%s), which the spec says is only reported: nodeagent apply --only %s repairs it", d.Name, plan.Count(len(d.Changes), "change"), d.Name))
		}
	}
	return list
}

func nodeProblems(nodes []cluster.NodeStatus, name, version string) []string {
	at := slices.IndexFunc(nodes, func(n cluster.NodeStatus) bool { return n.Name == name })
	if at < 0 {
		return []string{fmt.Sprintf("node %s is not registered", name)}
	}
	if !nodes[at].Ready {
		return []string{fmt.Sprintf("node %s is not Ready: %s", name, nodes[at].Reason)}
	}
	if runs := nodes[at].Version; runs != "" && runs != "v"+version {
		return []string{fmt.Sprintf("the kubelet is %s, the spec says %s: put the binaries of that version into kubernetes.binaries and restart the components", runs, version)}
	}
	return nil
}
