package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/pki"
)

// RestoreChoices are what a person decides about a restore.
type RestoreChoices struct {
	Snapshot string
	etcdops.VerifyOptions
	OtherCluster bool
	KeepRevision bool
	Token        string
	Attempt      int
	// Agreed is the plan of another host, nil for one of this host's own.
	Agreed            *etcdops.Agreement
	Digest            string
	Fenced            []string
	UnreadableSecrets bool
	RepairSpace       bool
	Trial             bool
	// Wait is how long etcd may take to prove itself, 0 for the default.
	Wait time.Duration
}

// PlanRestore reads and checks everything that a restore on this host depends
// on. It writes nothing.
func (h *Host) PlanRestore(ctx context.Context, choices RestoreChoices) (etcdops.RestorePlan, error) {
	opts, err := h.restoreOptions(ctx, choices)
	if err != nil {
		return etcdops.RestorePlan{}, err
	}
	return etcdops.PlanRestore(ctx, opts)
}

// PlanAgreement works out what all hosts of the fleet have to restore with. It
// writes nothing, and asks no other host.
func (h *Host) PlanAgreement(ctx context.Context, choices RestoreChoices) (etcdops.Agreement, error) {
	opts, err := h.restoreOptions(ctx, choices)
	if err != nil {
		return etcdops.Agreement{}, err
	}
	return etcdops.PlanAgreement(ctx, opts)
}

func (h *Host) restoreOptions(ctx context.Context, choices RestoreChoices) (etcdops.RestoreOptions, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) {
		return etcdops.RestoreOptions{}, errNoEtcd(spec)
	}
	opts := etcdops.RestoreOptions{
		EncryptionKeys: h.encryptionKeys(), RetiredKeys: h.retiredKeys(), RetiredFile: pki.RetiredFile(h.root),
		Surroundings: h.Surroundings(ctx),
		Root:         h.root, Snapshot: choices.Snapshot, SkipHash: choices.SkipHash,
		Cluster: spec.Cluster, OtherCluster: choices.OtherCluster,
		Host: spec.Name, Members: etcdops.Members(spec), Token: choices.Token, Attempt: choices.Attempt,
		Agreed: choices.Agreed, Digest: choices.Digest, Fenced: choices.Fenced,
		UnreadableSecrets: choices.UnreadableSecrets, RepairSpace: choices.RepairSpace, Trial: choices.Trial,
		KeepRevision: choices.KeepRevision, HealthTimeout: choices.Wait,
		TLS: EtcdTLS(h.root), Peer: etcdPeerTLS(h.root), Endpoint: localEtcd(spec),
		EtcdBinary:  filepath.Join(spec.Kubernetes.Binaries, layout.Etcd),
		OpenOptions: h.opening(choices.OpenOptions),
	}
	opts.Stop, opts.Restart = aroundRestore(spec)
	return opts, nil
}

// opening puts what is unsealed into nodeagent's own folder.
func (h *Host) opening(open etcdops.OpenOptions) etcdops.OpenOptions {
	if open.Scratch == "" {
		open.Scratch = h.root.Scratch()
	}
	return open
}

// PlanUndo reads and checks everything that bringing data back depends on which
// was put aside. It writes nothing. The folder is the newest one by default.
func (h *Host) PlanUndo(ctx context.Context, folder string, fenced []string, wait time.Duration) (etcdops.RestorePlan, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) {
		return etcdops.RestorePlan{}, errNoEtcd(spec)
	}
	opts := etcdops.UndoOptions{
		Root: h.root, Data: folder, Host: spec.Name, Cluster: spec.Cluster, Members: etcdops.Members(spec), Fenced: fenced,
		TLS: EtcdTLS(h.root), Peer: etcdPeerTLS(h.root), Endpoint: localEtcd(spec), HealthTimeout: wait,
	}
	opts.Stop, opts.Restart = aroundRestore(spec)
	return etcdops.PlanUndo(ctx, opts)
}

// KeptData lists the data of etcd that was put aside on this host, the newest
// first.
func (h *Host) KeptData() ([]etcdops.Kept, error) { return etcdops.KeptData(h.root) }

// aroundRestore says what stops before etcd does, because it writes to etcd,
// and what restarts afterwards, because it caches what was there before.
func aroundRestore(spec *hosts.Spec) (stop, restart []string) {
	if spec.Has(hosts.RoleControlPlane) {
		stop = []string{layout.APIServer}
		restart = []string{layout.ControllerManager, layout.Scheduler}
	}
	if spec.Has(hosts.RoleWorker) {
		restart = append(restart, layout.Kubelet, layout.KubeProxy)
	}
	return stop, restart
}

// Restore carries out a plan that PlanRestore made. The caller holds the lock.
func (h *Host) Restore(ctx context.Context, plan etcdops.RestorePlan, report func(etcdops.Event)) (etcdops.Result, error) {
	return etcdops.Restore(ctx, h.root, plan, componentUnits{h}, report)
}

// EndRestore ends a restore that was interrupted; without one it does nothing.
// The caller holds the lock.
func (h *Host) EndRestore(ctx context.Context, how etcdops.Ending, open etcdops.OpenOptions, report func(etcdops.Event)) (etcdops.Outcome, error) {
	outcome, _, err := etcdops.EndRestore(ctx, h.root, how, h.opening(open), componentUnits{h}, report)
	return outcome, err
}

// componentUnits starts and stops components by name for etcdops.
type componentUnits struct{ host *Host }

// Start implements etcdops.Units.
func (c componentUnits) Start(ctx context.Context, component string) error {
	u, err := c.unit(component)
	if err != nil {
		return err
	}
	return c.host.systemd.Start(ctx, u)
}

// Restart implements etcdops.Units.
func (c componentUnits) Restart(ctx context.Context, component string) error {
	u, err := c.unit(component)
	if err != nil {
		return err
	}
	return c.host.systemd.Restart(ctx, u)
}

// Stop implements etcdops.Units.
func (c componentUnits) Stop(ctx context.Context, component string) error {
	return c.host.systemd.Stop(ctx, layout.Unit(component))
}

func (c componentUnits) unit(component string) (units.Unit, error) {
	for _, u := range c.host.wantUnits().Units {
		if u.Name == layout.Unit(component) {
			return u, nil
		}
	}
	return units.Unit{}, fmt.Errorf("the spec of host %q has no %s", c.host.Spec().Name, component)
}
