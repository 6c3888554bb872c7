package netcfg

import (
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// kubeletPort is the port on which a kubelet serves by default.
const kubeletPort = 10250

// linkLocal is where neighbours on the same link speak from (RFC 4291, 2.5.6).
var linkLocal = netip.MustParsePrefix("fe80::/10")

// wantFirewall returns the firewall of the spec, nil where it has none: what
// every host needs, what the roles of this host and of its peers need of each
// other, then what the spec allows. Without [firewall] in the fleet there is at
// most the chain that masquerades.
func wantFirewall(spec *hosts.Spec) *Firewall {
	f := &Firewall{}
	if spec.Firewall.Enabled {
		f.put(inputChain, FirewallChain{firewallBase, uniqueNames(inputRules(spec))})
		if spec.Firewall.Forward != nil {
			f.put(forwardChain, FirewallChain{firewallBase, uniqueNames(forwardRules(spec))})
		}
	}
	if rules := masqueradeRules(spec.Firewall.Masquerade); len(rules) > 0 {
		f.put(masqueradeChain, FirewallChain{masqueradeBase, uniqueNames(rules)})
	}
	if len(f.chains()) == 0 {
		return nil
	}
	return f
}

func inputRules(spec *hosts.Spec) []FirewallRule {
	rules := append(basicRules(), clusterRules(spec)...)
	for _, allow := range spec.Firewall.Allow {
		rules = append(rules, byFamily(FirewallRule{
			Name: allow.Name, Protocol: allow.Protocol, Ports: portRanges(allow.Ports),
			Interfaces: sorted(allow.Interfaces), From: allow.From, Limit: wantLimit(allow.Limit),
		})...)
	}
	return rules
}

// wantLimit is the limit as the kernel has it. Its bucket holds the burst, and
// one that holds nothing would let nothing pass.
func wantLimit(l *hosts.Limit) *FirewallLimit {
	if l == nil {
		return nil
	}
	return &FirewallLimit{Count: l.Count, Per: l.Per, Burst: max(l.Burst, 1), BySource: l.BySource}
}

// basicRules are the rules without which a host is no good citizen of its
// network: RFC 4890 (4.4.1) says which ICMPv6 messages must not be dropped, RFC
// 1191 and 8201 why path MTU discovery needs its errors. Those errors are
// mostly "related" to a connection; tunnels and new flows need the others.
func basicRules() []FirewallRule {
	return []FirewallRule{
		{Name: "loopback", Interfaces: []string{"lo"}},
		{Name: "replies", States: []string{"established", "related"}},
		// Destination unreachable (path MTU), time exceeded, parameter problem.
		{Name: "icmp errors", Protocol: "icmp", Types: []uint8{3, 11, 12}},
		{Name: "ping", Protocol: "icmp", Types: []uint8{8}},
		// Destination unreachable, packet too big, time exceeded, parameter problem.
		{Name: "icmpv6 errors", Protocol: "icmpv6", Types: []uint8{1, 2, 3, 4}},
		{Name: "ping (IPv6)", Protocol: "icmpv6", Types: []uint8{128}},
		// Router advertisement, neighbour solicitation and advertisement. The
		// kernel itself refuses those that have passed a router.
		{Name: "neighbour discovery", Protocol: "icmpv6", Types: []uint8{134, 135, 136}},
		// Without answers to these queries switches stop passing the multicast
		// that neighbour discovery uses.
		{Name: "multicast listeners", Protocol: "icmpv6", Types: []uint8{130, 131, 132, 143}, From: []netip.Prefix{linkLocal}},
		// Answers to a broadcast are not replies to conntrack.
		{Name: "dhcp", Protocol: "udp", SourcePorts: []PortRange{{67, 67}}, Ports: []PortRange{{68, 68}}},
		{Name: "dhcp (IPv6)", Protocol: "udp", SourcePorts: []PortRange{{547, 547}}, Ports: []PortRange{{546, 546}}, From: []netip.Prefix{linkLocal}},
		// After the ICMP errors, which are invalid to conntrack where it does not
		// know the flow that they are about: one through a tunnel, one that is not
		// tracked. The kernel checks them against its sockets.
		{Name: "invalid", States: []string{"invalid"}, Drop: true},
	}
}

// clusterRules are what the fleet's hosts and the cluster's pods need of this
// host. Every one of these ports asks for a client certificate; that the sources
// are named keeps strangers from even trying. WireGuard's port is among the
// rules that the spec allows, where package hosts puts it.
//
// Pods reach the API server and the kubelet (metrics) on the host's address.
// What else they may reach of the host is for the spec to allow with "pods".
func clusterRules(spec *hosts.Spec) []FirewallRule {
	var rules []FirewallRule
	add := func(name, protocol string, port int, from []netip.Prefix) {
		if len(from) == 0 || port < 1 || port > 65535 {
			return
		}
		rules = append(rules, byFamily(FirewallRule{
			Name: name, Protocol: protocol, Ports: portRanges([]uint16{uint16(port)}), From: from,
		})...)
	}
	var pods []netip.Prefix
	if spec.Kubernetes.PodRange.IsValid() {
		pods = []netip.Prefix{spec.Kubernetes.PodRange}
	}
	if spec.Has(hosts.RoleEtcd) {
		add("etcd peers", "tcp", spec.Etcd.PeerPort, fleet(spec, hosts.RoleEtcd))
		add("etcd clients", "tcp", spec.Etcd.ClientPort, fleet(spec, hosts.RoleEtcd, hosts.RoleControlPlane))
	}
	if spec.Has(hosts.RoleControlPlane) {
		add("api server", "tcp", spec.Kubernetes.APIPort, append(fleet(spec), pods...))
	}
	if spec.Has(hosts.RoleWorker) {
		add("kubelet", "tcp", kubeletPortOf(spec), append(fleet(spec, hosts.RoleControlPlane), pods...))
	}
	return rules
}

// fleet returns the addresses of the peers with any of the roles, or of all
// peers where none is given: each one's own and the one in the WireGuard range.
func fleet(spec *hosts.Spec, roles ...hosts.Role) []netip.Prefix {
	var from []netip.Prefix
	add := func(a netip.Addr) {
		if a.IsValid() {
			from = append(from, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range spec.Peers {
		if len(roles) > 0 && !slices.ContainsFunc(roles, p.Has) {
			continue
		}
		add(p.Address)
		if p.WireGuard != nil {
			add(p.WireGuard.Address)
		}
	}
	return from
}

// kubeletPortOf returns the port of KubeletConfiguration where the spec sets it.
func kubeletPortOf(spec *hosts.Spec) int {
	switch port := spec.Kubernetes.Config["kubelet"]["port"].(type) {
	case int64: // as TOML has it
		return int(port)
	case int:
		return port
	}
	return kubeletPort
}
