package hosts

import (
	"net/netip"
	"time"
)

// Everything that a fleet need not say is said here, and nowhere else. The
// reference says it to readers, and a test holds the two together.
const (
	defaultDomain         = "cluster.local"
	defaultLifetime       = 2160 * time.Hour // 90 days
	defaultCALifetime     = 87600 * time.Hour
	defaultAdminLifetime  = 24 * time.Hour
	defaultKeyType        = "ecdsa-p256"
	defaultVaultMount     = "nodeagent/" // and the cluster's name
	defaultCAKeys         = caKeysPlain
	defaultCredential     = "nodeagent-ca" // also in nodeagent.service
	defaultVaultAuth      = authCert
	defaultAPIPort        = 6443
	defaultCNI            = cniBridge
	defaultBinaries       = "/usr/local/bin"
	defaultCNIBinaries    = "/opt/cni/bin"
	defaultPauseImage     = "registry.k8s.io/pause:3.10.1" // what kubeadm 1.36 uses
	defaultQuota          = 8 << 30
	defaultClientPort     = 2379
	defaultPeerPort       = 2380
	defaultHeartbeat      = 100 * time.Millisecond
	defaultElection       = time.Second
	defaultSchedule       = "*-*-* 00/6:00:00"
	defaultKeep           = 28 // a week of them
	defaultDestination    = "/var/lib/nodeagent/snapshots"
	defaultInterface      = "wg0"
	defaultWireGuardPort  = 51820
	defaultWireGuardMTU   = 1420 // 1500 less 80 bytes of IPv6, UDP and WireGuard
	defaultProtocol       = "tcp"
	defaultMIIMon         = 100 * time.Millisecond
	defaultVLANProtocol   = "802.1q"
	defaultVXLANPort      = 4789 // RFC 7348, 8.1
	defaultMacvlanMode    = "bridge"
	defaultBurst          = 5 // nft's own
	defaultProbeTime      = 30 * time.Second
	defaultLeaseTTL       = 15 * time.Second
	ethernetMTU           = 1500
	encapsulationOverhead = 50 // VXLAN over IPv4, the largest that is common
)

// workerModules and workerSysctls are what Kubernetes needs of a worker's
// kernel: bridged pod traffic passes the packet filter, packets are forwarded,
// and the values that the kubelet insists on with protectKernelDefaults
// (setupKernelTunables in pkg/kubelet/cm/container_manager_linux.go, 1.36).
var (
	workerModules = []string{"br_netfilter", "overlay"}
	workerSysctls = map[string]string{
		"net.ipv4.ip_forward":                 "1",
		"net.bridge.bridge-nf-call-iptables":  "1",
		"net.bridge.bridge-nf-call-ip6tables": "1",
		"vm.overcommit_memory":                "1",
		"vm.panic_on_oom":                     "0",
		"kernel.panic":                        "10",
		"kernel.panic_on_oops":                "1",
		"kernel.keys.root_maxkeys":            "1000000",
		"kernel.keys.root_maxbytes":           "25000000",
	}
)

// inotifyInstances is fs.inotify.max_user_instances of a host that runs
// components. They all count as root's, as do most pods: the kernel's 128 are
// used up by two dozen components and a few pods, and then kubelets do not start
// and rotated certificates are not noticed ("too many open files").
const inotifyInstances = "8192"

// set fills in a default where nothing is set. The zero value never is a valid
// setting of the fields that it is used for.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// fillDefaults completes what was read.
func (d *draft) fillDefaults(f facts) {
	s := d.spec
	set(&s.Domain, defaultDomain)
	d.defaultLinks()
	d.defaultFirewall()
	set(&s.Network.Probes.Within, defaultProbeTime)
	for i := range s.Network.Floating {
		set(&s.Network.Floating[i].TTL, defaultLeaseTTL)
	}
	if w := s.Network.WireGuard; w != nil {
		set(&w.Interface, defaultInterface)
		set(&w.Port, defaultWireGuardPort)
		set(&w.MTU, defaultWireGuardMTU)
		if !d.has("host.address") {
			s.Address = w.Address.Addr()
		}
	}
	d.defaultPKI(f)
	d.defaultKubernetes(f)
	d.defaultKernel()
	set(&s.Etcd.QuotaBytes, defaultQuota)
	set(&s.Etcd.ClientPort, defaultClientPort)
	set(&s.Etcd.PeerPort, defaultPeerPort)
	set(&s.Etcd.HeartbeatInterval, defaultHeartbeat)
	set(&s.Etcd.ElectionTimeout, defaultElection)
	d.defaultSnapshots()
}

func (d *draft) defaultLinks() {
	for i := range d.spec.Network.Links {
		l := &d.spec.Network.Links[i]
		set(&l.Kind, LinkPhysical)
		if b := l.Bond; b != nil && b.ARPInterval == 0 && d.linkNode(l.Name).get("bond.miimon") == nil {
			b.MIIMon = defaultMIIMon
		}
		if l.VLAN != nil {
			set(&l.VLAN.Protocol, defaultVLANProtocol)
		}
		if l.VXLAN != nil {
			set(&l.VXLAN.Port, defaultVXLANPort)
		}
		if l.Kind == LinkMacvlan && l.Macvlan == nil {
			l.Macvlan = &Macvlan{}
		}
		if l.Macvlan != nil {
			set(&l.Macvlan.Mode, defaultMacvlanMode)
		}
	}
	for i := range d.spec.Network.Routes {
		r := &d.spec.Network.Routes[i]
		set(&r.Type, RouteUnicast)
		for j := range r.Nexthops {
			set(&r.Nexthops[j].Weight, 1)
		}
	}
}

func (d *draft) defaultFirewall() {
	f := &d.spec.Firewall
	for i := range f.Allow {
		set(&f.Allow[i].Protocol, defaultProtocol)
		if f.Allow[i].Limit != nil {
			set(&f.Allow[i].Limit.Burst, defaultBurst)
		}
	}
	if f.Forward == nil {
		return
	}
	for i := range f.Forward.Allow {
		if rule := &f.Forward.Allow[i]; len(rule.Ports) > 0 {
			set(&rule.Protocol, defaultProtocol)
		}
	}
}

func (d *draft) defaultPKI(f facts) {
	p := &d.spec.PKI
	if f.playing == 1 {
		set(&p.Issuer, issuerLocal)
	}
	set(&p.Lifetime, defaultLifetime)
	set(&p.RenewBefore, p.Lifetime/3)
	set(&p.CALifetime, defaultCALifetime)
	set(&p.AdminLifetime, defaultAdminLifetime)
	set(&p.KeyType, defaultKeyType)
	if p.Local != nil {
		set(&p.Local.CAKeys, defaultCAKeys)
		if p.Local.CAKeys == caKeysCredential {
			set(&p.Local.Credential, defaultCredential)
		}
	}
	if p.Vault != nil {
		set(&p.Vault.Mount, defaultVaultMount+d.spec.Cluster)
		set(&p.Vault.Auth, defaultVaultAuth)
		if p.Vault.Auth == authJWT {
			set(&p.Vault.JWTSubject, hostInSubject)
		}
	}
}

func (d *draft) defaultKubernetes(f facts) {
	k := &d.spec.Kubernetes
	set(&k.APIPort, defaultAPIPort)
	set(&k.CNI, defaultCNI)
	set(&k.Binaries, f.binaries)
	set(&k.CNIBinaries, f.cniBinaries)
	set(&k.PauseImage, defaultPauseImage)
	underlay := ethernetMTU
	if w := d.spec.Network.WireGuard; w != nil && w.Address.Addr() == d.spec.Address {
		underlay = w.MTU
	}
	set(&k.PodMTU, max(underlay-encapsulationOverhead, minIPv6MTU))
	if !d.has("kubernetes.endpoint") && len(f.controlPlanes) == 1 && f.controlPlanes[0].spec.Address.IsValid() {
		k.Endpoint = netip.AddrPortFrom(f.controlPlanes[0].spec.Address, uint16(k.APIPort)).String()
	}
	if d.ownsPodRange() && !d.has("host.pod_range") && len(f.workers) == 1 {
		k.HostPodRange = firstPodRange(k.PodRange)
	}
}

// ownsPodRange tells whether the host hands out pod addresses itself.
func (d *draft) ownsPodRange() bool {
	return d.spec.Kubernetes.CNI == cniBridge && d.spec.Has(RoleWorker)
}

// firstPodRange is the first /24 (IPv6: /64) of the cluster's pod range, the
// sizes that kube-controller-manager hands out by default.
func firstPodRange(pods netip.Prefix) netip.Prefix {
	if !pods.IsValid() {
		return netip.Prefix{}
	}
	bits := 24
	if pods.Addr().Is6() {
		bits = 64
	}
	return netip.PrefixFrom(pods.Addr(), max(bits, pods.Bits()))
}

// defaultKernel adds what a worker and a hub need, unless kernel.defaults is
// false. A sysctl that a file sets to false is left alone.
func (d *draft) defaultKernel() {
	if d.has("kernel.defaults") && !value[bool](d, "kernel.defaults") {
		return
	}
	written := d.tree.get("kernel.sysctl")
	add := func(name, value string) {
		if written == nil || written.table[name] == nil {
			d.spec.Kernel.Sysctls[name] = value
		}
	}
	if len(d.spec.Roles) > 0 {
		add("fs.inotify.max_user_instances", inotifyInstances)
	}
	if d.spec.Has(RoleWorker) {
		parameters := d.tree.get("kernel.parameters")
		for _, name := range workerModules {
			d.addModule(name, parameters)
		}
		for name, value := range workerSysctls {
			add(name, value)
		}
		if d.spec.Kubernetes.PodRange.Addr().Is6() {
			add(forwardingIPv6, "1")
		}
	}
	if w := d.spec.Network.WireGuard; w != nil {
		for _, client := range w.Clients {
			for _, p := range client.Addresses {
				add(forwardingOf(p), "1")
			}
		}
	}
}

// The sysctls that let a host pass packets on.
const (
	forwardingIPv4 = "net.ipv4.ip_forward"
	forwardingIPv6 = "net.ipv6.conf.all.forwarding"
)

func forwardingOf(p netip.Prefix) string {
	if p.Addr().Is6() {
		return forwardingIPv6
	}
	return forwardingIPv4
}

func (d *draft) defaultSnapshots() {
	s := &d.spec.Snapshots
	set(&s.Schedule, defaultSchedule)
	set(&s.Keep.Last, defaultKeep)
	set(&s.Destination, defaultDestination)
	set(&s.Compression, CompressionZstd)
	d.defaultCopies()
	if s.Schedule == never || !d.spec.Has(RoleEtcd) {
		s.Schedule = ""
	}
	d.defaultSchedule()
}
