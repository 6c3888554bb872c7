package pki

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Want returns the certificates, trust bundles and keys that the spec's roles
// need. It is pure: the same spec gives the same state.
func Want(spec *hosts.Spec) State {
	w := wanter{spec: spec}
	if spec.PKI.Issuer == IssuerVault && len(spec.Roles) > 0 {
		w.slot = slotOf(spec, func(roles []hosts.Role) bool { return len(roles) > 0 })
		w.identity()
	}
	for _, part := range []struct {
		role hosts.Role
		asks func()
	}{{hosts.RoleEtcd, w.etcd}, {hosts.RoleControlPlane, w.controlPlane}, {hosts.RoleWorker, w.worker}} {
		if spec.Has(part.role) {
			w.slot = slotOf(spec, func(roles []hosts.Role) bool { return slices.Contains(roles, part.role) })
			part.asks()
		}
	}
	return w.state()
}

// The groups and users that Kubernetes itself knows.
// See https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
// and https://kubernetes.io/docs/reference/access-authn-authz/node/.
const (
	groupNodes       = "system:nodes"
	groupNodeProxier = "system:node-proxier" // names the part; the built-in binding is to the user system:kube-proxy
	userNode         = "system:node:"        // and the host's name
	userProxy        = "system:kube-proxy"
)

// wanter gathers what the roles ask for.
type wanter struct {
	spec     *hosts.Spec
	slot     Slot // of what is asked for now
	requests []Request
	trust    []string
	keys     []Key
}

// identity is what the host logs in to Vault with.
func (w *wanter) identity() {
	w.trusts(layout.CANodeagent)
	w.ask(Request{Name: layout.CertNodeagent, CA: layout.CANodeagent, CommonName: w.spec.Name, Client: true})
}

func (w *wanter) etcd() {
	host, local := w.hostNames(), loopbackNames()
	w.trusts(layout.CAEtcdServer, layout.CAEtcdPeer)
	w.ask(Request{Name: layout.CertEtcdServer, CA: layout.CAEtcdServer, CommonName: w.spec.Name, Server: true, Client: true}, host, local)
	w.ask(Request{Name: layout.CertEtcdPeer, CA: layout.CAEtcdPeer, CommonName: w.spec.Name, Server: true, Client: true}, host)
	w.ask(Request{Name: layout.CertNodeagentEtcdClient, CA: layout.CAEtcdServer, CommonName: "nodeagent-etcd-maintenance", Client: true})
}

func (w *wanter) controlPlane() {
	w.trusts(layout.CAEtcdServer, layout.CAK8sServer, layout.CAK8sClient, layout.CAFrontProxy)
	w.keys = []Key{{Name: KeyEncryption}, {Name: KeyServiceAccount}}
	client := func(name, user, group string) {
		w.ask(Request{Name: name, CA: layout.CAK8sClient, CommonName: user, Organization: group, Client: true})
	}
	server := func(name, cn string, names ...names) {
		w.ask(Request{Name: name, CA: layout.CAK8sServer, CommonName: cn, Server: true}, names...)
	}
	w.ask(Request{Name: layout.CertAPIServerEtcdClient, CA: layout.CAEtcdServer, CommonName: "kube-apiserver-etcd-client", Client: true})
	w.ask(Request{Name: layout.CertFrontProxyClient, CA: layout.CAFrontProxy, CommonName: "front-proxy-client", Client: true})
	server(layout.CertAPIServer, "kube-apiserver", w.hostNames(), loopbackNames(), w.apiNames())
	client(layout.CertAPIServerKubeletClient, "kube-apiserver-kubelet-client", layout.KubeletAPIGroup)
	client(layout.CertControllerManagerClient, "system:kube-controller-manager", "")
	server(layout.CertControllerManagerServer, "kube-controller-manager", loopbackNames())
	client(layout.CertSchedulerClient, "system:kube-scheduler", "")
	server(layout.CertSchedulerServer, "kube-scheduler", loopbackNames())
	client(layout.CertAdmin, "kubernetes-admin", layout.AdminGroup)
}

func (w *wanter) worker() {
	w.trusts(layout.CAK8sServer, layout.CAK8sClient)
	node := userNode + w.spec.Name
	w.ask(Request{Name: layout.CertKubeletServer, CA: layout.CAK8sServer, CommonName: node, Organization: groupNodes, Server: true}, w.hostNames())
	w.ask(Request{Name: layout.CertKubeletClient, CA: layout.CAK8sClient, CommonName: node, Organization: groupNodes, Client: true})
	w.ask(Request{Name: layout.CertKubeProxy, CA: layout.CAK8sClient, CommonName: userProxy, Organization: groupNodeProxier, Client: true})
}

// names are subject alternative names.
type names struct {
	dns       []string
	addresses []netip.Addr
}

// hostNames are the names under which others of the fleet reach this host.
func (w *wanter) hostNames() names {
	n := names{dns: []string{w.spec.Name}, addresses: []netip.Addr{w.spec.Address}}
	if wg := w.spec.Network.WireGuard; wg != nil {
		n.addresses = append(n.addresses, wg.Address.Addr())
	}
	return n
}

func loopbackNames() names {
	return names{
		dns:       []string{"localhost"},
		addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
	}
}

// apiNames are the further names of kube-apiserver: as pods see it, as the
// endpoint, and what the fleet adds.
func (w *wanter) apiNames() names {
	k := w.spec.Kubernetes
	n := names{
		dns: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + w.spec.Domain,
		},
		// The service "kubernetes" takes the first address of the range.
		addresses: []netip.Addr{k.ServiceRange.Masked().Addr().Next()},
	}
	if host, _, err := net.SplitHostPort(k.Endpoint); err == nil {
		n.add(host)
	}
	for _, name := range w.spec.PKI.ExtraNames {
		n.add(name)
	}
	return n
}

// add adds a name or an address, whichever it is.
func (n *names) add(name string) {
	if a, err := netip.ParseAddr(name); err == nil {
		n.addresses = append(n.addresses, a)
		return
	}
	n.dns = append(n.dns, name)
}

func (w *wanter) trusts(cas ...string) { w.trust = append(w.trust, cas...) }

// ask completes a request with its names, key type and times.
func (w *wanter) ask(r Request, all ...names) {
	for _, n := range all {
		r.DNSNames = append(r.DNSNames, n.dns...)
		for _, a := range n.addresses {
			if a.IsValid() {
				r.Addresses = append(r.Addresses, a.WithZone("").Unmap())
			}
		}
	}
	r.DNSNames = sortedNames(r.DNSNames)
	r.Addresses = sortedAddresses(r.Addresses)
	p := w.spec.PKI
	r.KeyType, r.Lifetime, r.RenewBefore, r.Slot = p.KeyType, p.Lifetime, p.RenewBefore, w.slot
	if r.Name == layout.CertAdmin {
		// People copy it to other machines, so it is short; a third of its life
		// is left when it is renewed.
		r.Lifetime, r.RenewBefore = p.AdminLifetime, p.AdminLifetime/3
	}
	w.requests = append(w.requests, r)
}

func (w *wanter) state() State {
	s := State{Host: w.spec.Name, Keys: w.keys}
	for _, r := range w.requests {
		s.Certificates = append(s.Certificates, Certificate{Request: r})
	}
	slices.SortFunc(s.Certificates, func(a, b Certificate) int { return cmp.Compare(a.Name, b.Name) })
	for _, ca := range layout.CAs() {
		if !slices.Contains(w.trust, ca) {
			continue
		}
		s.Trust = append(s.Trust, Bundle{CA: ca})
		if w.spec.PKI.Issuer == IssuerLocal {
			s.Authorities = append(s.Authorities, w.authority(ca))
			s.CAKeys.Protection = caKeysOf(w.spec.PKI)
		}
	}
	return s
}

// authority is renewed while it still outlives every leaf that it signs, as
// far as its own lifetime allows.
func (w *wanter) authority(ca string) Authority {
	p := w.spec.PKI
	return Authority{
		Name:        ca,
		Cluster:     w.spec.Cluster,
		Lifetime:    p.CALifetime,
		RenewBefore: min(max(p.Lifetime, p.AdminLifetime), p.CALifetime/2).Truncate(time.Second),
		Encrypted:   caKeysOf(p) != ProtectPlain,
	}
}

// caKeysOf is how the local issuer's keys are to lie on disk.
func caKeysOf(p hosts.PKI) string {
	if p.Local == nil {
		return ProtectPlain
	}
	return cmp.Or(p.Local.CAKeys, ProtectPlain)
}

func sortedNames(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

func sortedAddresses(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
