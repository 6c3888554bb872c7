package hosts

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// require reports the keys of a table that are missing, with one line for all
// of them where the table itself is missing.
func (f *findings) require(file string, root *node, table, why string, names ...string) {
	parent := root.get(table)
	if parent == nil {
		f.missing(file, nil, table, "is missing: [%s] needs %s; %s", table, and(names), why)
		return
	}
	if parent.bad {
		return
	}
	for _, name := range names {
		if parent.get(name) == nil {
			f.missing(file, parent, table+"."+name, "is missing: %s", why)
		}
	}
}

func and(words []string) string {
	return strings.Replace(list(words), " or ", " and ", 1)
}

// checkCluster checks what cluster.toml says, with the specs of the hosts in
// hand: they all have the same values there.
func (l *loader) checkCluster(f facts) {
	l.require(clusterTOML, l.cluster, "cluster", "it names the cluster in certificates and etcd's data", "name")
	if d := l.hosts[0]; len(f.workers)+len(f.controlPlanes) > 0 {
		l.require(clusterTOML, l.cluster, "kubernetes", "the fleet has Kubernetes hosts, and changing it later means a new cluster or an upgrade", "version", "pod_range", "service_range")
		d.checkRanges()
	}
	l.checkEndpoint(f)
	l.checkIssuer(f)
	l.hosts[0].checkEtcd()
	l.hosts[0].checkPorts()
}

// checkEndpoint asks for an endpoint where none can be derived.
func (l *loader) checkEndpoint(f facts) {
	if n := l.cluster.get("kubernetes.endpoint"); n != nil {
		l.checkEndpointHost(n)
		return
	}
	if len(f.controlPlanes) < 2 {
		return
	}
	parent := l.cluster.get("kubernetes")
	if parent == nil || parent.bad {
		return // said already
	}
	l.missing(clusterTOML, parent, "kubernetes.endpoint", "is missing: with %d control planes, clients need one host:port that leads to a working one (a load balancer, a virtual address or a DNS name)", len(f.controlPlanes))
}

// checkEndpointHost warns of an endpoint that leads to a host of the fleet where
// no kube-apiserver listens, unless something that nodeagent does not know of
// does.
func (l *loader) checkEndpointHost(n *node) {
	host, port, err := net.SplitHostPort(parsed[string](n))
	address, addrErr := netip.ParseAddr(host)
	if err != nil || addrErr != nil {
		return
	}
	for _, d := range l.hosts {
		if !slices.Contains(d.ownAddresses(), address) || !d.ok("host.roles") {
			continue
		}
		switch own := strconv.Itoa(d.spec.Kubernetes.APIPort); {
		case !d.spec.Has(RoleControlPlane):
			l.warn(n.file, n, n.path, "%s is host %q, which is no control plane", address, d.spec.Name)
		case port != own:
			l.warn(n.file, n, n.path, "host %q listens on port %s (kubernetes.api_port), not on %s", d.spec.Name, own, port)
		}
		return
	}
}

func (l *loader) checkIssuer(f facts) {
	l.checkLocalIssuer()
	if f.playing == 0 || !f.rolesKnown {
		return
	}
	issuer := l.cluster.get("pki.issuer")
	if issuer == nil {
		if f.playing > 1 {
			l.missing(clusterTOML, l.cluster.get("pki"), "pki.issuer", "is missing: with %d hosts it is \"vault\", as the local issuer keeps its CAs on one host", f.playing)
		}
		return
	}
	switch vault := l.cluster.get("pki.vault"); parsed[string](issuer) {
	case issuerLocal:
		if f.playing > 1 {
			l.at(issuer, "the local issuer keeps its CAs on one host, but %d hosts have roles: use \"vault\"", f.playing)
		}
		if vault != nil && !vault.bad {
			l.at(vault, "has no effect while pki.issuer is \"local\" (%s): remove one of them", issuer.place())
		}
	case issuerVault:
		l.require(clusterTOML, l.cluster, "pki.vault", "the issuer is \"vault\"", "address")
		l.checkVaultAuth()
	}
}

// checkLocalIssuer: what opens the keys of CAs is said for the way that they are
// encrypted, and where there are such keys.
func (l *loader) checkLocalIssuer() {
	local, issuer := l.cluster.get("pki.local"), l.cluster.get("pki.issuer")
	if local == nil || local.bad {
		return
	}
	if issuer != nil && !issuer.bad && parsed[string](issuer) != issuerLocal {
		l.at(local, "has no effect unless pki.issuer is \"local\" (%s): remove one of them", issuer.place())
		return
	}
	keys := l.cluster.get("pki.local.ca_keys")
	if keys != nil && keys.bad {
		return
	}
	how := defaultCAKeys
	if keys != nil {
		how = parsed[string](keys)
	}
	for name, with := range map[string]string{"passphrase_file": caKeysPassphrase, "credential": caKeysCredential} {
		if n := l.cluster.get("pki.local." + name); n != nil && !n.bad && how != with {
			l.at(n, "has no effect unless pki.local.ca_keys is %q: remove one of them", with)
		}
	}
}

// checkVaultAuth: a token's file is for the login with tokens, and needed there.
func (l *loader) checkVaultAuth() {
	file, auth := l.cluster.get("pki.vault.jwt_file"), l.cluster.get("pki.vault.auth")
	withJWT := auth != nil && !auth.bad && parsed[string](auth) == authJWT
	switch {
	case withJWT && file == nil:
		l.at(auth, "pki.vault.jwt_file is missing: hosts log in with the token in it")
	case !withJWT:
		for _, name := range []string{"jwt_file", "jwt_subject", "jwt_audience"} {
			if n := l.cluster.get("pki.vault." + name); n != nil && !n.bad {
				l.at(n, "has no effect unless pki.vault.auth is %q: remove one of them", authJWT)
			}
		}
	}
}

// namedRange is one range of the cluster and where it is written.
type namedRange struct {
	path   string
	prefix netip.Prefix
	node   *node
}

// clusterRanges are the good ones of the ranges that must not overlap.
func (d *draft) clusterRanges() []namedRange {
	var ranges []namedRange
	for _, path := range []string{"kubernetes.pod_range", "kubernetes.service_range", "network.wireguard.range"} {
		if p := value[netip.Prefix](d, path); p.IsValid() {
			ranges = append(ranges, namedRange{path, p, d.tree.get(path)})
		}
	}
	return ranges
}

func (d *draft) checkRanges() {
	ranges := d.clusterRanges()
	for i, r := range ranges {
		for _, earlier := range ranges[:i] {
			if r.prefix.Overlaps(earlier.prefix) {
				d.at(r.node, "%s overlaps %s %s (%s)", r.prefix, earlier.path, earlier.prefix, earlier.node.place())
				break
			}
		}
	}
	if n := d.tree.get("kubernetes.service_range"); n != nil && !n.bad {
		d.checkServiceRange(n, value[netip.Prefix](d, "kubernetes.pod_range"))
	}
}

// Limits of the service range by kube-apiserver: at least 8 addresses, and at
// most 2^20 (cmd/kube-apiserver/app/options/validation.go, 1.36).
const (
	minServiceBits = 3
	maxServiceBits = 20
)

func (d *draft) checkServiceRange(n *node, pods netip.Prefix) {
	services := parsed[netip.Prefix](n)
	length := services.Addr().BitLen()
	switch bits := length - services.Bits(); {
	case bits > maxServiceBits:
		d.at(n, "%s is too large for kube-apiserver: /%d or longer", services, length-maxServiceBits)
	case bits < minServiceBits:
		d.at(n, "%s is too small for kube-apiserver: /%d or shorter", services, length-minServiceBits)
	case pods.IsValid() && pods.Addr().Is4() != services.Addr().Is4():
		d.at(n, "%s is not of the same family as kubernetes.pod_range %s", services, pods)
	}
}

// checkEtcd checks etcd's settings by etcd's own rules (embed.Config.Validate:
// an election takes at least five heartbeats and at most 50 s; 8 GiB is the
// largest quota that etcd suggests).
func (d *draft) checkEtcd() {
	e := d.spec.Etcd
	if n := d.tree.get("etcd.quota"); n != nil && !n.bad {
		switch {
		case e.QuotaBytes > 8<<30:
			d.at(n, "%s is more than the 8GiB that etcd supports", quote(n.value.(string)))
		case e.QuotaBytes < 64<<20:
			d.at(n, "%s is too small for a cluster: at least 64MiB", quote(n.value.(string)))
		}
	}
	for _, path := range []string{"etcd.heartbeat_interval", "etcd.election_timeout"} {
		n := d.tree.get(path)
		switch v := value[time.Duration](d, path); {
		case v%time.Millisecond != 0:
			d.at(n, "must be whole milliseconds")
		case v > 50*time.Second:
			d.at(n, "must be at most 50s")
		}
	}
	if !d.ok("etcd.heartbeat_interval", "etcd.election_timeout") || e.ElectionTimeout >= 5*e.HeartbeatInterval {
		return
	}
	n := d.firstOf("etcd.election_timeout", "etcd.heartbeat_interval")
	d.at(n, "etcd.election_timeout (%s) must be at least five times etcd.heartbeat_interval (%s)", e.ElectionTimeout, e.HeartbeatInterval)
}

// nearest returns the first of the paths that the host's own file sets, or else
// the first that cluster.toml sets: of two settings that conflict, the host's
// made it so.
func (d *draft) nearest(paths ...string) *node {
	for _, path := range paths {
		if n := d.tree.get(path); n != nil && n.file == d.file {
			return n
		}
	}
	return d.firstOf(paths...)
}

// firstOf returns the value of the first path that a file sets.
func (d *draft) firstOf(paths ...string) *node {
	for _, path := range paths {
		if n := d.tree.get(path); n != nil {
			return n
		}
	}
	return nil
}

// fixedPorts are those on which Kubernetes components listen unasked.
var fixedPorts = map[int]string{
	2381: "etcd's metrics", 10248: "kubelet's health endpoint", 10249: "kube-proxy's metrics",
	10250: "kubelet", 10256: "kube-proxy's health endpoint",
	10257: "kube-controller-manager", 10259: "kube-scheduler",
}

func (d *draft) checkPorts() {
	ports := []struct {
		path string
		port int
	}{
		{"etcd.client_port", d.spec.Etcd.ClientPort},
		{"etcd.peer_port", d.spec.Etcd.PeerPort},
		{"kubernetes.api_port", d.spec.Kubernetes.APIPort},
	}
	for i, p := range ports {
		if n := d.tree.get(p.path); n != nil && !n.bad && fixedPorts[p.port] != "" {
			d.at(n, "port %d is that of %s", p.port, fixedPorts[p.port])
		}
		for _, earlier := range ports[:i] {
			if p.port == earlier.port && d.ok(p.path, earlier.path) {
				d.at(d.firstOf(p.path, earlier.path), "%s and %s are both port %d", earlier.path, p.path, p.port)
			}
		}
	}
}

// endpointHost is the host of the API endpoint.
func endpointHost(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return ""
	}
	return host
}
