package agent

import (
	"context"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// A host whose address changes in the fleet moves its member of etcd by itself:
// its certificates are issued for the new address first, since their domain comes
// before the units'; then, in its turn, the cluster is told the new peer URL, etcd
// is restarted there, and the cluster forgets the old one.

// moveTime is how long the cluster may take to forget an old address once the
// member listens at the new one.
const moveTime = 30 * time.Second

// announceAddress tells the cluster where this host's member will be found when it
// has been restarted. The caller holds etcd's turn.
func (h *Host) announceAddress(ctx context.Context) error {
	site, err := h.EtcdSite()
	if err != nil {
		return err
	}
	done, err := etcdops.Readdress(ctx, site, etcdops.ReaddressOptions{Host: site.Self, Peer: h.EtcdPeerTLS(), Holds: true}, nil)
	if err == nil && done.Took > 0 {
		h.log.Info("etcd is told where this host's member moves", "from", done.From, "to", done.To)
	}
	return err
}

// settleAddress ends a move: of a member that has just been restarted, or of one
// that was off when its host got another address. Looked at once for each spec.
func (h *Host) settleAddress(ctx context.Context) error {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) || h.settled.Load() == spec.Digest {
		return nil
	}
	for _, self := range etcdops.Members(spec) {
		if self.Name != spec.Name || etcdops.AtHome(ctx, h.EtcdPeerTLS(), self) {
			continue
		}
		site, err := h.EtcdSite()
		if err != nil {
			return err
		}
		done, err := etcdops.Readdress(ctx, site, etcdops.ReaddressOptions{Host: spec.Name, Peer: h.EtcdPeerTLS(), Patience: moveTime}, nil)
		if err != nil {
			return err
		}
		h.log.Info("etcd finds this host's member at its new address", "from", done.From, "to", done.To)
	}
	h.settled.Swap(spec.Digest)
	return nil
}
