package vm

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/vm/line"
)

// benchStall is how long the benchmark may print nothing: it does so at its end.
const benchStall = 15 * time.Minute

// BenchmarkWireGuardPeers runs netcfg's benchmark of the name in a guest, whose
// kernel has WireGuard, beside the wg of this machine, and prints what it says.
// On an emulated processor only the ratios mean something.
func BenchmarkWireGuardPeers(b *testing.B) {
	Require(b)
	g := bootGuest(b, "usr/bin/wg")
	test := inGuest("netcfg")
	for b.Loop() {
		p, err := g.Start(line.Command{
			Args: []string{test, "-test.run", "^$", "-test.bench", "WireGuardPeers/kernel", "-test.benchtime", "10x", "-test.v"},
			Env:  []string{"NODEAGENT_VM=1", "CI=true"}, Dir: filepath.Dir(test),
		})
		must(b, err)
		p.Stdout, p.Stderr = os.Stdout, os.Stdout // a benchmark's log is cut after ten lines
		must(b, p.Wait(b.Context(), benchStall))
	}
	b.ReportMetric(0, "ns/op") // of no interest
}
