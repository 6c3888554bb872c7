package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

const (
	// holdDaemon is how long the daemon waits for the other hosts of etcd in one
	// converge; between two it goes on answering them, and looks every
	// startLook whether it may go on.
	holdDaemon = 10 * time.Second
	startLook  = 3 * time.Second
	// holdPerson is how long apply waits: a person sets the other hosts up.
	holdPerson = 5 * time.Minute
)

// etcdStart holds the host's starter while etcd waits.
type etcdStart struct {
	mu      sync.Mutex
	digest  string // of the spec that the starter is of
	starter *etcdops.Starter
}

// of returns the starter for a spec.
func (s *etcdStart) of(root layout.Root, spec *hosts.Spec) (*etcdops.Starter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starter != nil && s.digest == spec.Digest {
		return s.starter, nil
	}
	if s.starter != nil {
		if err := s.starter.Close(); err != nil {
			return nil, err
		}
	}
	starter := &etcdops.Starter{
		Root: root, Members: etcdops.Members(spec), Token: spec.Cluster, Existing: spec.Etcd.Existing,
		Peer: etcdPeerTLS(root), Client: EtcdTLS(root),
	}
	for _, m := range starter.Members {
		if m.Name == spec.Name {
			starter.Self = m
		}
	}
	s.starter, s.digest = starter, spec.Digest
	return starter, nil
}

// current is the starter that there is, nil if there is none.
func (s *etcdStart) current() *etcdops.Starter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starter
}

func (s *etcdStart) close() error {
	if starter := s.current(); starter != nil {
		return starter.Close()
	}
	return nil
}

// guardStart keeps etcd from being started in the middle of a restore, and
// without data where that could be a second cluster.
func (h *Host) guardStart(ctx context.Context, unit string) error {
	if unit != layout.Unit(layout.Etcd) {
		return nil
	}
	restoring, err := etcdops.RestoreInProgress(h.root)
	if err != nil {
		return err
	}
	if restoring {
		return fmt.Errorf("not started: %w", etcdops.ErrRestoreInterrupted)
	}
	starter, err := h.start.of(h.root, h.Spec())
	if err != nil {
		return err
	}
	patience := holdPerson
	if h.heed {
		patience = holdDaemon
	}
	return starter.Permit(ctx, patience)
}

// etcdPeerTLS names the certificate with which etcd's members know each other.
func etcdPeerTLS(root layout.Root) etcdops.TLS {
	files := root.Certificate(layout.CertEtcdPeer)
	return etcdops.TLS{Cert: files.Cert, Key: files.Key, CA: root.Trust(layout.CAEtcdPeer)}
}

// EtcdPeerTLS is the certificate with which this host may ask etcd's peer ports;
// the zero value on a host that has none, being no member.
func (h *Host) EtcdPeerTLS() etcdops.TLS {
	if !h.Spec().Has(hosts.RoleEtcd) {
		return etcdops.TLS{}
	}
	return etcdPeerTLS(h.root)
}

// ownStarter is the starter of a host that has a member.
func (h *Host) ownStarter() (*etcdops.Starter, error) {
	if spec := h.Spec(); !spec.Has(hosts.RoleEtcd) {
		return nil, errNoEtcd(spec)
	}
	return h.start.of(h.root, h.Spec())
}

// EtcdOutlook tells whether this host's etcd may be started, and why.
func (h *Host) EtcdOutlook(ctx context.Context) (etcdops.Outlook, error) {
	starter, err := h.ownStarter()
	if err != nil {
		return etcdops.Outlook{}, err
	}
	return starter.Outlook(ctx)
}

// DeclareEtcd notes that a person said that a new cluster begins here. The caller
// holds the lock.
func (h *Host) DeclareEtcd(without, again bool) error {
	starter, err := h.ownStarter()
	if err != nil {
		return err
	}
	return starter.Declare(time.Now(), without, again)
}

// watchEtcdStart makes the daemon converge as soon as etcd, which waited for
// other hosts, may be started.
func (h *Host) watchEtcdStart(ctx context.Context, events chan<- Event) {
	for sleepUntil(ctx, time.Now().Add(startLook)) {
		starter := h.start.current()
		if restoring, _ := etcdops.RestoreInProgress(h.root); restoring && starter != nil {
			// The restored etcd needs the port on which this host answers.
			if err := starter.Close(); err != nil {
				h.log.Warn("etcd's peer port is not left", "error", err)
			}
			continue
		}
		if starter == nil || !starter.Waiting() || !starter.Allowed(ctx) {
			continue
		}
		send(ctx, events, Event{Source: "the other hosts of etcd", Domains: []string{DomainUnits}})
	}
}
