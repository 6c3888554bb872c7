package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// observePatience bounds how long a plan waits for an API server that hangs.
const observePatience = 10 * time.Second

func (h *Host) clusterDomain() Domain {
	return verbs[cluster.State]{
		name:    DomainCluster,
		whole:   true,
		want:    func(context.Context) (cluster.State, error) { return cluster.Want(h.Spec()), nil },
		observe: h.observeCluster,
		diff:    cluster.Diff,
		apply:   h.applyCluster,
	}
}

// observeCluster asks this host's own API server as the administrator. One
// that cannot be reached is no error: the plan then says that the bindings are
// to be made and that it does not know better, as on a bare host.
func (h *Host) observeCluster(ctx context.Context, want cluster.State) (cluster.State, error) {
	if !h.Spec().Has(hosts.RoleControlPlane) {
		return cluster.State{}, nil
	}
	client, err := h.administrator()
	if errors.Is(err, cluster.ErrUnreachable) {
		return cluster.Unreachable(), nil
	}
	if err != nil {
		return cluster.State{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, observePatience)
	defer cancel()
	have, err := cluster.Observe(ctx, client, want)
	if errors.Is(err, cluster.ErrUnreachable) {
		err = nil
	}
	return have, err
}

// applyCluster makes the bindings as system:masters: the administrator's own
// rights come from one of them.
func (h *Host) applyCluster(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	client, err := h.connect(func(ctx context.Context) (tls.Certificate, error) {
		issuer, err := h.issuer(ctx)
		if err != nil {
			return tls.Certificate{}, err
		}
		if h.heed {
			defer h.keyring.Forget()
		}
		return pki.EphemeralClient(ctx, issuer, h.Spec().Name)
	})
	if err != nil {
		return err
	}
	defer client.Close()
	return cluster.Apply(ctx, client, changes, rep)
}

// nodes lists the cluster's nodes as the administrator sees them.
func (h *Host) nodes(ctx context.Context) ([]cluster.NodeStatus, error) {
	client, err := h.administrator()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return cluster.Nodes(ctx, client)
}

func (h *Host) administrator() (*cluster.Client, error) {
	return h.connect(cluster.Files(h.root.Certificate(layout.CertAdmin)))
}

func (h *Host) connect(certificate cluster.Certificate) (*cluster.Client, error) {
	return cluster.Connect(cluster.LocalServer(h.Spec()), h.root.Trust(layout.CAK8sServer), certificate)
}
