package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
)

// RecoverChoices are what a person decides about a recovery.
type RecoverChoices struct {
	// Fenced are hosts that cannot be reached and whose etcd is off.
	Fenced      []string
	RepairSpace bool
	// Version is nodeagent's own, for the manifest of what is saved.
	Version  string
	Progress func(done, total int64)
}

// recoverOptions are those of a recovery on this host. What it saves lies beside
// the data until it is restored, as plain as those.
func (h *Host) recoverOptions(ctx context.Context, choices RecoverChoices) (etcdops.RecoverOptions, error) {
	restore, err := h.restoreOptions(ctx, RestoreChoices{Fenced: choices.Fenced, RepairSpace: choices.RepairSpace})
	if err != nil {
		return etcdops.RecoverOptions{}, err
	}
	site, err := h.EtcdSite()
	if err != nil {
		return etcdops.RecoverOptions{}, err
	}
	restore.Others, restore.Members = restore.Members, nil
	return etcdops.RecoverOptions{
		RestoreOptions: restore, Program: restore.EtcdBinary,
		Save: etcdops.SaveOptions{
			Dir: h.recoverDir(), Cluster: restore.Cluster, Host: restore.Host, Site: site, Surroundings: restore.Surroundings,
			Version: choices.Version, Scratch: h.root.Scratch(), Progress: choices.Progress,
		},
	}, nil
}

func (h *Host) recoverDir() string { return filepath.Join(filepath.Dir(h.root.EtcdData()), "recover") }

// LookRecover looks whether etcd has to be recovered on this host, and refuses
// where it has not.
func (h *Host) LookRecover(ctx context.Context, choices RecoverChoices) (etcdops.RecoverLook, error) {
	opts, err := h.recoverOptions(ctx, choices)
	if err != nil {
		return etcdops.RecoverLook{}, err
	}
	return etcdops.LookRecover(ctx, opts)
}

// PlanRecover saves what this host has, and plans to restore it as a cluster of
// this host alone. The data is not touched.
func (h *Host) PlanRecover(ctx context.Context, look etcdops.RecoverLook, choices RecoverChoices, told etcdops.Told) (etcdops.RestorePlan, error) {
	opts, err := h.recoverOptions(ctx, choices)
	if err != nil {
		return etcdops.RestorePlan{}, err
	}
	if err := h.forgetRecovery(); err != nil {
		return etcdops.RestorePlan{}, err
	}
	opts.Save.Signer = h.signer()
	snapshot, err := etcdops.TakeForRecovery(ctx, look, opts, told)
	if err != nil {
		return etcdops.RestorePlan{}, err
	}
	return etcdops.PlanRecover(ctx, snapshot, opts)
}

// Recover carries the plan out. The caller holds the lock.
func (h *Host) Recover(ctx context.Context, plan etcdops.RestorePlan, report func(etcdops.Event)) (etcdops.Result, error) {
	result, err := h.Restore(ctx, plan, report)
	if err != nil {
		return result, err
	}
	return result, h.forgetRecovery()
}

// forgetRecovery removes what an earlier recovery saved. The old data is kept.
func (h *Host) forgetRecovery() error {
	if err := os.RemoveAll(h.recoverDir()); err != nil {
		return fmt.Errorf("remove what a recovery saved: %w", err)
	}
	return nil
}

// PlanRejoin decides whether this host's data may be put aside, so that it joins
// the cluster that there is.
func (h *Host) PlanRejoin(ctx context.Context) (etcdops.RejoinPlan, error) {
	starter, err := h.ownStarter()
	if err != nil {
		return etcdops.RejoinPlan{}, err
	}
	return starter.PlanRejoin(ctx, time.Now())
}

// PutAside puts this host's data aside. The caller holds the lock.
func (h *Host) PutAside(ctx context.Context, plan etcdops.RejoinPlan, told etcdops.Told) error {
	return plan.PutAside(ctx, h.root, componentUnits{h}, told)
}

// Rejoin gives this host its place in the cluster, and waits until it has its vote.
// nodeagent here starts it meanwhile: the caller holds no lock.
func (h *Host) Rejoin(ctx context.Context, patience time.Duration, told etcdops.Told) (etcdops.Replaced, error) {
	site, err := h.EtcdSite()
	if err != nil {
		return etcdops.Replaced{}, err
	}
	opts := etcdops.ReplaceOptions{Host: h.Spec().Name, Patience: patience, Peer: h.EtcdPeerTLS()}
	done, err := etcdops.Replace(ctx, site, opts, told)
	if errors.Is(err, etcdops.ErrNotReplaced) {
		err = fmt.Errorf("%w (what was put aside stays so; `nodeagent etcd replace %s` goes on)", err, opts.Host)
	}
	return done, err
}
