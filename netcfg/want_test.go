package netcfg

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

// TestRoutesToPods derives the routes to the pods of the other hosts.
func TestRoutesToPods(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	base := func() *hosts.Spec {
		spec := &hosts.Spec{Name: "a", Roles: []hosts.Role{hosts.RoleWorker}, Address: addr("192.0.2.1")}
		spec.Kubernetes.CNI = "bridge"
		spec.Network.Links = []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(prefix("192.0.2.1/24"))}}
		spec.Peers = []hosts.Peer{
			{Name: "b", Address: addr("192.0.2.2"), PodRange: prefix("10.244.1.0/24")},
			{Name: "c", Address: addr("192.0.2.3")}, // no worker
		}
		return spec
	}
	direct := Route{Destination: prefix("10.244.1.0/24"), Via: addr("192.0.2.2"), Device: "lan0", Protocol: RouteProtocol}
	for _, tc := range []struct {
		name string
		edit func(*hosts.Spec)
		want []Route
	}{
		{"on one network", func(*hosts.Spec) {}, []Route{direct}},
		{"through the mesh", func(s *hosts.Spec) {
			s.Network.WireGuard = &hosts.WireGuard{Interface: "wg0", Address: prefix("10.9.0.1/24")}
			s.Peers[0].WireGuard = &hosts.WireGuardPeer{Address: addr("10.9.0.2")}
		}, []Route{{Destination: prefix("10.244.1.0/24"), Device: "wg0", Protocol: RouteProtocol}}},
		{"the spec's own route wins", func(s *hosts.Spec) {
			s.Network.Routes = []hosts.Route{{Destination: prefix("10.244.1.0/24"), Via: addr("192.0.2.9"), Device: "lan0"}}
		}, []Route{{Destination: prefix("10.244.1.0/24"), Via: addr("192.0.2.9"), Device: "lan0", Protocol: RouteProtocol}}},
		{"nothing leaves for pods that are nowhere", func(s *hosts.Spec) {
			s.Kubernetes.PodRange, s.Kubernetes.HostPodRange = prefix("10.244.0.0/16"), prefix("10.244.0.0/24")
		}, []Route{{Destination: prefix("10.244.0.0/16"), Type: hosts.RouteUnreachable, Protocol: RouteProtocol}, direct}},
		{"the cluster's whole range is a host's", func(s *hosts.Spec) {
			s.Kubernetes.PodRange = prefix("10.244.1.0/24")
		}, []Route{direct}},
		{"a CNI of the fleet's own", func(s *hosts.Spec) { s.Kubernetes.CNI = "none" }, nil},
		{"no part of the cluster", func(s *hosts.Spec) { s.Roles = nil }, nil},
	} {
		spec := base()
		tc.edit(spec)
		compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(tc.want, Want(spec).Routes, compare, prefixes); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
