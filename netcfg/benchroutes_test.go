package netcfg

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// manyRoutes wants n routes by gateways of one link.
func manyRoutes(n int) State {
	network := hosts.Network{Links: []hosts.Link{{
		Name: "lan0", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(netip.MustParsePrefix("192.0.2.1/24")),
	}}}
	for i := range n {
		network.Routes = append(network.Routes, hosts.Route{
			Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 250), byte(i % 250), 0}), 24),
			Via:         netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i%200)}), Device: "lan0",
		})
	}
	return Want(&hosts.Spec{Network: network})
}

// timed returns how long f took. Garbage of before is not its own.
func timed(b *testing.B, f func() error) time.Duration {
	b.Helper()
	runtime.GC()
	begin := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

// side is one of the two that are measured side by side, turn by turn.
type side []time.Duration

func (s side) median() time.Duration { return slices.Sorted(slices.Values(s))[len(s)/2] }

func (s side) String() string {
	return fmt.Sprintf("%v (%v to %v)", s.median().Round(10*time.Microsecond), slices.Min(s).Round(10*time.Microsecond), slices.Max(s).Round(10*time.Microsecond))
}

// compared prints both sides and their ratio, and makes the ratio a figure of
// the benchmark.
func compared(b *testing.B, what, tool string, ours, theirs side) {
	ratio := float64(ours.median()) / float64(theirs.median())
	fmt.Printf("%s: nodeagent %v, %s %v, ratio %.2f\n", what, ours, tool, theirs, ratio)
	b.ReportMetric(ratio, "ratio-"+what)
}

// converged observes, compares and applies, and expects the number of changes.
func converged(b *testing.B, sys *System, want State, changes int) func() error {
	return func() error {
		have, err := sys.Observe(b.Context(), want)
		if err != nil {
			return err
		}
		diff := Diff(have, want)
		if len(diff) != changes {
			return fmt.Errorf("%d changes, want %d", len(diff), changes)
		}
		return sys.Apply(b.Context(), diff, plan.Silent{})
	}
}

func command(b *testing.B, name string, args ...string) func() error {
	return func() error {
		cmd := exec.CommandContext(b.Context(), name, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %v: %w: %s", name, args, err, stderr.String())
		}
		return nil
	}
}

// BenchmarkManyRoutes puts 10,000 routes side by side with ip(8), as the process
// that it is: made from empty with ip -batch, looked at with ip route show, and
// one of them changed. Run it with -benchtime 1x; it takes its turns by itself.
func BenchmarkManyRoutes(b *testing.B) {
	const n, turns = 10_000, 9
	newNamespace(b)
	somebodysVeth(b, "lan0", "wire0")
	sys, want := open(b), manyRoutes(n)
	empty := State{Links: want.Links}
	converge(b, sys, empty)
	other := want
	other.Routes = slices.Clone(want.Routes)
	other.Routes[n/2].Via = netip.MustParseAddr("192.0.2.250")
	var script bytes.Buffer
	for _, r := range want.Routes {
		fmt.Fprintf(&script, "route add %s via %s dev %s proto %d\n", r.Destination, r.Via, r.Device, RouteProtocol)
	}
	batch := filepath.Join(b.TempDir(), "routes")
	must(b, os.WriteFile(batch, script.Bytes(), 0o600))

	var made, batched, noop, shown, shownJSON, one, put side
	for range turns {
		batched = append(batched, timed(b, command(b, "ip", "-batch", batch)))
		noop = append(noop, timed(b, converged(b, sys, want, 0)))
		shown = append(shown, timed(b, command(b, "ip", "route", "show")))
		shownJSON = append(shownJSON, timed(b, command(b, "ip", "-j", "route", "show")))
		one = append(one, timed(b, converged(b, sys, other, 1)))
		put = append(put, timed(b, command(b, "ip", "route", "replace", "10.20.0.0/24", "via", "192.0.2.250", "dev", "lan0", "proto", "229")))
		must(b, converged(b, sys, empty, n)())
		made = append(made, timed(b, converged(b, sys, want, n)))
		must(b, converged(b, sys, empty, n)())
	}
	for b.Loop() { // the figures are of the turns above
	}
	b.ReportMetric(0, "ns/op")
	compared(b, "10000-routes-from-empty", "ip -batch", made, batched)
	compared(b, "10000-routes-noop", "ip route show", noop, shown)
	compared(b, "10000-routes-noop-json", "ip -j route show", noop, shownJSON)
	beyond := one.median() - noop.median()
	fmt.Printf("one-route-of-10000-changed: %v beyond the no-op; ip route replace as a process %v\n", beyond.Round(10*time.Microsecond), put)
	b.ReportMetric(float64(beyond.Microseconds())/1000, "ms-one-changed")
}

// BenchmarkRoutesMemory shows that memory grows with the routes and no faster.
func BenchmarkRoutesMemory(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			newNamespace(b)
			somebodysVeth(b, "lan0", "wire0")
			sys, want := open(b), manyRoutes(n)
			converge(b, sys, want)
			b.ReportAllocs()
			for b.Loop() {
				must(b, converged(b, sys, want, 0)())
			}
		})
	}
}
