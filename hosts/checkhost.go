package hosts

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// checkHost checks one host, as far as it can be judged by itself.
func (d *draft) checkHost(f facts) {
	d.checkIdentity()
	d.checkWireGuard(f)
	d.checkKernel()
	d.checkArguments()
	d.checkLinks()
	d.checkRoutes()
	d.checkRules()
	d.checkFirewall(f)
	d.checkNames(f)
	d.checkProbes(f)
	d.checkLifetimes()
	d.checkSnapshots()
	d.checkSchedule()
	d.checkMetrics()
	d.checkPodRange(f)
	d.checkAddress()
	if d.spec.Etcd.Existing && len(f.members) == 1 && d.spec.Has(RoleEtcd) && d.ok("etcd.existing") {
		d.at(d.tree.get("etcd.existing"), "the fleet has no other etcd member that this one could join")
	}
}

func (d *draft) checkIdentity() {
	names := []string{"roles", "address"}
	if d.has("wireguard") {
		names = names[:1] // the address is the one in the mesh by default
	}
	d.require(d.file, d.tree, "host", "every host needs it (roles = [] for a host without any)", names...)
}

func (d *draft) checkWireGuard(f facts) {
	mesh, own := d.tree.get("network.wireguard"), d.tree.get("wireguard")
	switch {
	case mesh == nil && own == nil, own != nil && own.bad:
		return
	case mesh == nil:
		d.at(own, "the fleet has no WireGuard network: write [network.wireguard] with its range in %s", clusterTOML)
		return
	case mesh.get("range") == nil && !mesh.bad:
		d.missing(clusterTOML, mesh, "network.wireguard.range", "is missing: the hosts' WireGuard addresses are taken from it")
	}
	if own == nil {
		if len(d.spec.Roles) > 0 {
			d.missing(d.file, nil, "wireguard", "is missing: the hosts of the fleet are joined by WireGuard (%s), so this one needs an address and a public key", mesh.place())
		}
		return
	}
	d.require(d.file, d.tree, "wireguard", "it is the host's own within network.wireguard.range", "address")
	if own.get("public_key") == nil && !own.bad {
		d.warn(d.file, own, "wireguard.public_key", "is missing: the other hosts cannot let this one in before it is written here")
	}
	d.checkMeshAddress()
}

func (d *draft) checkMeshAddress() {
	n := d.tree.get("wireguard.address")
	meshRange := value[netip.Prefix](d, "network.wireguard.range")
	address := value[netip.Addr](d, "wireguard.address")
	if !meshRange.IsValid() || !address.IsValid() {
		return
	}
	switch {
	case !meshRange.Contains(address):
		d.at(n, "%s is not in network.wireguard.range %s", address, meshRange)
	case isNetworkOrBroadcast(address, meshRange):
		d.at(n, "%s is the first or last address of network.wireguard.range %s, which no host can have", address, meshRange)
	}
}

// isNetworkOrBroadcast tells whether an IPv4 address is the first or the last
// of its range, where these have a meaning.
func isNetworkOrBroadcast(a netip.Addr, p netip.Prefix) bool {
	if !a.Is4() || p.Bits() > 30 {
		return false
	}
	next := a.Next()
	return a == p.Masked().Addr() || !next.IsValid() || !p.Contains(next)
}

// checkKernel looks for parameters of modules that the host does not load, and
// for one module's parameters under two spellings.
func (d *draft) checkKernel() {
	parameters := d.tree.get("kernel.parameters")
	seen := map[string]*node{}
	for _, spelled := range parameters.names() {
		n := parameters.table[spelled]
		name, err := parseModule(spelled)
		if err != nil || n.bad {
			continue
		}
		if other := seen[name]; other != nil {
			d.at(n, "is the same module as %s (%s)", other.path, other.place())
			continue
		}
		seen[name] = n
		loaded := slices.ContainsFunc(d.spec.Kernel.Modules, func(m Module) bool { return m.Name == name })
		if !loaded && d.ok("kernel.modules") {
			d.at(n, "the module is not in kernel.modules")
		}
	}
}

// checkLifetimes compares the lifetimes of certificates.
func (d *draft) checkLifetimes() {
	p := d.spec.PKI
	before := "pki.renew_before"
	if outage := d.tree.get("pki.survive_vault_outage"); outage != nil && !outage.bad {
		if d.has(before) {
			d.at(outage, "says the same as pki.renew_before (%s): remove one of them", d.origin(before))
			return
		}
		before = "pki.survive_vault_outage"
	}
	if d.ok(before, "pki.lifetime") && p.RenewBefore >= p.Lifetime {
		d.at(d.nearest(before, "pki.lifetime"), "certificates would be due as soon as they are made: they live %s (%s) and are renewed %s before their end (%s)",
			hours(p.Lifetime), d.origin("pki.lifetime"), hours(p.RenewBefore), d.origin(before))
		return
	}
	if p.RenewBefore < ClientReread {
		if n := d.nearest(before, "pki.lifetime"); n != nil {
			d.warn(n.file, n, n.path, "certificates are renewed %s before their end, and Kubernetes' clients look at theirs every five minutes: kubelet, kube-proxy, controller manager and scheduler are restarted at each renewal, and kube-apiserver may show kubelets an expired one; let %s be at least %s",
				hours(p.RenewBefore), before, hours(ClientReread))
		}
	}
	for _, leaf := range []struct {
		path     string
		lifetime time.Duration
		longer   bool
	}{
		{"pki.lifetime", p.Lifetime, p.Lifetime > p.CALifetime},
		{"pki.admin_lifetime", p.AdminLifetime, p.AdminLifetime > p.CALifetime},
	} {
		if leaf.longer && d.ok(leaf.path, "pki.ca_lifetime") {
			d.at(d.nearest(leaf.path, "pki.ca_lifetime"), "a certificate of %s (%s) would outlive its CA of %s (%s)", hours(leaf.lifetime), d.origin(leaf.path), hours(p.CALifetime), d.origin("pki.ca_lifetime"))
		}
	}
}

// hours prints a duration without the zeros that Go adds: 720h, not 720h0m0s.
func hours(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// checkPodRange checks the host's own part of the cluster's pod range.
func (d *draft) checkPodRange(f facts) {
	n := d.tree.get("host.pod_range")
	if !d.ok("kubernetes.cni", "host.roles") || !d.has("host.roles") {
		return
	}
	pods, own := value[netip.Prefix](d, "kubernetes.pod_range"), value[netip.Prefix](d, "host.pod_range")
	switch {
	case n == nil && d.ownsPodRange() && len(f.workers) > 1:
		d.missing(d.file, d.tree.get("host"), "host.pod_range", "is missing: with %d workers each states its own part of kubernetes.pod_range; were it derived by position, a new host would move the ranges of others", len(f.workers))
	case n == nil || n.bad:
	case d.spec.Kubernetes.CNI != cniBridge:
		d.at(n, "has no effect: kubernetes.cni is %q, so nodeagent hands out no pod addresses", d.spec.Kubernetes.CNI)
	case !d.spec.Has(RoleWorker):
		d.at(n, "has no effect: the host is not a worker")
	case pods.IsValid() && (!pods.Contains(own.Addr()) || own.Bits() < pods.Bits()):
		d.at(n, "%s is not within kubernetes.pod_range %s", own, pods)
	case own.Addr().BitLen()-own.Bits() < 2:
		d.at(n, "%s has no room for pods", own)
	}
}

// checkAddressIsHeld warns of a node address that is none of those that are
// written for the host's links: most often one of the two has a typing error,
// and etcd could not listen.
func (d *draft) checkAddressIsHeld(n *node, mesh netip.Addr) {
	var links []string
	for _, h := range d.held() {
		if h.link && h.addr == d.spec.Address {
			return
		}
		if h.link && h.addr.Is4() == d.spec.Address.Is4() {
			links = append(links, h.addr.String())
		}
	}
	if len(links) > 0 && d.spec.Address != mesh && len(d.spec.Roles) > 0 && d.ok("network.link") {
		d.warn(n.file, n, n.path, "%s is on none of the host's links, which have %s", d.spec.Address, list(links))
	}
}

// checkAddress keeps the node address, and the links' networks, out of the
// cluster's ranges.
func (d *draft) checkAddress() {
	mesh := value[netip.Addr](d, "wireguard.address")
	if n := d.tree.get("host.address"); n != nil && !n.bad {
		d.checkAddressIsHeld(n, mesh)
		for _, r := range d.clusterRanges() {
			if r.prefix.Contains(d.spec.Address) && d.spec.Address != mesh {
				d.at(n, "%s is within %s %s (%s)", d.spec.Address, r.path, r.prefix, r.node.place())
				break
			}
		}
	}
	services := value[netip.Prefix](d, "kubernetes.service_range")
	if n := d.firstOf("host.address", "wireguard.address"); n != nil && !n.bad && services.IsValid() && d.spec.Address.IsValid() && len(d.spec.Roles) > 0 &&
		d.spec.Address.Is4() != services.Addr().Is4() {
		d.at(n, "the node address %s is not of the same family as kubernetes.service_range %s", d.spec.Address, services)
	}
	if n := d.tree.get("wireguard.endpoint"); n != nil && !n.bad {
		meshRange := value[netip.Prefix](d, "network.wireguard.range")
		if a, err := netip.ParseAddr(endpointHost(n.parsed.(string))); err == nil && meshRange.IsValid() && meshRange.Contains(a) {
			d.at(n, "%s is within network.wireguard.range %s: an endpoint is where the host is reached from outside", a, meshRange)
		}
	}
}

// origin names a setting and where its value comes from, for reasons.
func (d *draft) origin(path string) string {
	if n := d.tree.get(path); n != nil {
		return path + ", " + n.place()
	}
	return path + ", by default"
}
