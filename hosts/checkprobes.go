package hosts

import (
	"net/netip"
	"slices"
)

// checkProbeTargets warns of a target that is another host of the fleet whose
// firewall does not let this one in: what never answered before a change judges
// nothing after it.
func (d *draft) checkProbeTargets(byAddress map[netip.Addr]*draft) {
	n := d.tree.get("network.probes.connect")
	if n == nil {
		return
	}
	for _, item := range n.list {
		target, err := netip.ParseAddrPort(parsed[string](item))
		other := byAddress[target.Addr()]
		if err != nil || other == nil || other == d || other.letsIn(d, target.Port()) {
			continue
		}
		d.warn(item.file, item, n.path, "%s is the host %q, whose firewall does not let the host %q in at that port: the probe would never answer, and so never keep a change", target, other.spec.Name, d.spec.Name)
	}
}

// letsIn tells whether the host's firewall may accept a TCP connection from an
// address of the other host. Only what is certain is denied.
func (d *draft) letsIn(other *draft, port uint16) bool {
	s := d.spec
	_, kubeletElsewhere := s.Kubernetes.Config["kubelet"]["port"]
	const kubelet = 10250
	if !s.Firewall.Enabled || kubeletElsewhere || slices.Contains([]int{s.Etcd.ClientPort, s.Etcd.PeerPort, s.Kubernetes.APIPort, kubelet}, int(port)) {
		return true // the ports of Kubernetes and etcd have rules of their own
	}
	from := other.hostPrefixes(other.spec.Name)
	for _, link := range other.spec.Network.Links {
		for _, a := range link.Addresses {
			from = append(from[:len(from):len(from)], netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen()))
		}
	}
	return slices.ContainsFunc(s.Firewall.Allow, func(rule Allow) bool {
		return rule.Protocol == "tcp" && slices.Contains(rule.Ports, port) &&
			(len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(p netip.Prefix) bool { return slices.ContainsFunc(from, p.Overlaps) }))
	})
}
