package agent

import (
	"context"
	"fmt"
	"path/filepath"

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
}

// PlanRestore reads and checks everything that a restore on this host depends
// on. It writes nothing.
func (h *Host) PlanRestore(ctx context.Context, choices RestoreChoices) (etcdops.RestorePlan, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) {
		return etcdops.RestorePlan{}, errNoEtcd(spec)
	}
	opts := etcdops.RestoreOptions{
		EncryptionKeys: h.encryptionKeys(), RetiredKeys: h.retiredKeys(), RetiredFile: pki.RetiredFile(h.root),
		Surroundings: h.Surroundings(ctx),
		Root:         h.root, Snapshot: choices.Snapshot, SkipHash: choices.SkipHash,
		Cluster: spec.Cluster, OtherCluster: choices.OtherCluster,
		Host: spec.Name, Members: etcdops.Members(spec), Token: choices.Token,
		KeepRevision: choices.KeepRevision,
		TLS:          EtcdTLS(h.root), Endpoint: localEtcd(spec),
		EtcdBinary:  filepath.Join(spec.Kubernetes.Binaries, layout.Etcd),
		OpenOptions: choices.OpenOptions,
	}
	if opts.Scratch == "" {
		opts.Scratch = h.root.Scratch()
	}
	opts.Stop, opts.Restart = aroundRestore(spec)
	return etcdops.PlanRestore(ctx, opts)
}

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

// ResumeRestore ends a restore that was interrupted; without one it does
// nothing. The caller holds the lock.
func (h *Host) ResumeRestore(ctx context.Context, report func(etcdops.Event)) (etcdops.Outcome, error) {
	outcome, _, err := etcdops.ResumeOrUndo(ctx, h.root, componentUnits{h}, report)
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
