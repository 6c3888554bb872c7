package agent

import (
	"context"
	"errors"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

const (
	// fencePatience bounds how long a boot waits for the other hosts of etcd to
	// say whether this one's data is of a cluster that was replaced meanwhile.
	fencePatience = 3 * time.Second
	// replacedLook is how often a running member is asked about.
	replacedLook = time.Minute
)

// fenceEtcd keeps systemd from starting etcd with data of a cluster that was
// restored elsewhere while this host was off. At boot it comes before etcd's unit,
// which waits for the network. Where nobody says so etcd starts as ever.
func (h *Host) fenceEtcd(ctx context.Context) {
	if !h.Spec().Has(hosts.RoleEtcd) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	starter, err := h.ownStarter()
	if err == nil {
		err = starter.Fence(ctx)
	}
	if err != nil {
		h.log.Error("etcd is not to be started", "error", err)
	}
}

// watchReplaced stops a member that runs although its cluster was replaced, as one
// that could not be reached when that was done.
func (h *Host) watchReplaced(ctx context.Context, events chan<- Event) {
	for sleepUntil(ctx, time.Now().Add(replacedLook)) {
		if spec := h.Spec(); !spec.Has(hosts.RoleEtcd) || len(etcdEndpoints(spec)) < 2 {
			continue
		}
		starter, err := h.ownStarter()
		if err != nil || starter.Waiting() || starter.Replaced(ctx) == nil {
			continue
		}
		if err := h.stopReplaced(ctx, starter); err != nil {
			h.log.Error("etcd was not stopped, though its cluster was replaced", "error", err)
			continue
		}
		send(ctx, events, Event{Source: "the cluster that has replaced this host's", Domains: []string{DomainUnits}})
	}
}

// stopReplaced looks once more while nobody else, as a restore, works on etcd here.
func (h *Host) stopReplaced(ctx context.Context, starter *etcdops.Starter) error {
	lock, err := acquireQuietly(ctx, h.root, []string{DomainUnits})
	if err != nil {
		return err
	}
	defer lock.Release()
	if restoring, err := etcdops.RestoreInProgress(h.root); err != nil || restoring {
		return err
	}
	if err = starter.Fence(ctx); !errors.Is(err, etcdops.ErrReplaced) {
		return err
	}
	h.log.Error("etcd is stopped", "error", err)
	return h.systemd.Stop(ctx, layout.Unit(layout.Etcd))
}
