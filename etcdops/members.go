package etcdops

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// Member is one etcd member as the fleet wants it.
type Member struct {
	Name string `json:"name"`
	// PeerURL is where the other members reach it, ClientURL where clients do.
	PeerURL   string `json:"peerURL"`
	ClientURL string `json:"clientURL"`
}

// Members returns the etcd members of the host's fleet, sorted by name: the
// initial cluster. Ports are the host's own, which a fleet shares.
func Members(spec *hosts.Spec) []Member {
	var members []Member
	if spec.Has(hosts.RoleEtcd) {
		members = append(members, memberOf(spec.Name, spec.Address, spec.Etcd))
	}
	for _, peer := range spec.Peers {
		if peer.Has(hosts.RoleEtcd) {
			members = append(members, memberOf(peer.Name, peer.Address, spec.Etcd))
		}
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members
}

func memberOf(name string, address netip.Addr, etcd hosts.Etcd) Member {
	url := func(port int) string { return "https://" + net.JoinHostPort(address.String(), strconv.Itoa(port)) }
	return Member{Name: name, PeerURL: url(etcd.PeerPort), ClientURL: url(etcd.ClientPort)}
}

// initialCluster is the value of etcd's flag of that name.
func initialCluster(members []Member) string {
	pairs := make([]string, len(members))
	for i, m := range members {
		pairs[i] = m.Name + "=" + m.PeerURL
	}
	return strings.Join(pairs, ",")
}
