package agent

import (
	"context"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// EtcdSite is the etcd cluster of the fleet, as this host reaches it. Hosts that
// have neither the role etcd nor that of a control plane have no certificate
// that etcd takes.
func (h *Host) EtcdSite() (etcdops.Site, error) {
	spec := h.Spec()
	if !spec.Has(hosts.RoleEtcd) && !spec.Has(hosts.RoleControlPlane) {
		return etcdops.Site{}, errNoEtcd(spec)
	}
	site := etcdops.Site{TLS: EtcdTLS(h.root), Members: etcdops.Members(spec), Self: spec.Name}
	if spec.Has(hosts.RoleEtcd) {
		site.Local, site.Socket = localEtcd(spec), h.root.EtcdSocket()
	}
	return site, nil
}

// LookAtEtcd asks all members of etcd how they are.
func (h *Host) LookAtEtcd(ctx context.Context, hashes bool) (etcdops.View, error) {
	site, err := h.EtcdSite()
	if err != nil {
		return etcdops.View{}, err
	}
	return etcdops.Look(ctx, site, hashes), nil
}
