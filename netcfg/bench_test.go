package netcfg

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// busyHost wants 100 links with an address each and 1000 routes.
func busyHost() State {
	var network hosts.Network
	for i := range 50 {
		network.Links = append(network.Links, hosts.Link{
			Name: fmt.Sprintf("v%d", i), Kind: hosts.LinkVeth, Peer: fmt.Sprintf("w%d", i),
			Addresses: hosts.Plain(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), 24)),
		})
	}
	for i := range 1000 {
		network.Routes = append(network.Routes, hosts.Route{
			Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(i/250), byte(i % 250), 0}), 24),
			Via:         netip.AddrFrom4([4]byte{10, 1, byte(i % 50), 2}),
		})
	}
	return Want(&hosts.Spec{Network: network})
}

// BenchmarkObserveDiff is a converge of a busy host that finds nothing to do.
func BenchmarkObserveDiff(b *testing.B) {
	newNamespace(b)
	sys, want := open(b), busyHost()
	converge(b, sys, want)
	b.ReportAllocs()
	for b.Loop() {
		have, err := sys.Observe(b.Context(), want)
		if err != nil {
			b.Fatal(err)
		}
		if changes := Diff(have, want); len(changes) != 0 {
			b.Fatalf("%d changes", len(changes))
		}
	}
}

// BenchmarkConverge builds the busy host and takes it down again.
func BenchmarkConverge(b *testing.B) {
	newNamespace(b)
	sys, want := open(b), busyHost()
	for b.Loop() {
		for _, w := range []State{want, {}} {
			have, err := sys.Observe(b.Context(), w)
			if err != nil {
				b.Fatal(err)
			}
			if err := sys.Apply(context.Background(), Diff(have, w), plan.Silent{}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
