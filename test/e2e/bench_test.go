package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// BenchmarkMercury measures nodeagent on a lab host: the converge of a bare
// host until all units are active, a converge with nothing to do, and the
// daemon while nothing happens. Run it with -benchtime 1x: each part is
// meaningful once, and repeats itself where an average is.
func BenchmarkMercury(b *testing.B) {
	lab.Require(b)
	ctx := b.Context()
	l, err := lab.Open(ctx, lab.Options{Log: b.Output()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	m, err := l.AddMercury(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cold", func(b *testing.B) { benchmarkCold(b, m) })
	b.Run("noop", func(b *testing.B) { benchmarkNoop(b, m) })
	b.Run("idle", func(b *testing.B) { benchmarkIdle(b, m) })
}

func benchmarkCold(b *testing.B, m *lab.Mercury) {
	for b.Loop() {
		b.StopTimer()
		if err := m.Reset(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := m.Boot(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		report(b, measure(b, m, "nodeagent", "apply"))
	}
}

// noopRuns is how many runs an average is made of.
const noopRuns = 20

func benchmarkNoop(b *testing.B, m *lab.Mercury) {
	for b.Loop() {
		entering := average(b, m, "true")
		apply := average(b, m, "nodeagent", "apply")
		apply.wall -= entering.wall
		apply.cpu -= entering.cpu
		report(b, apply)
	}
}

// average runs a command several times.
func average(b *testing.B, m *lab.Mercury, args ...string) usage {
	var sum usage
	for range noopRuns {
		u := measure(b, m, args...)
		sum.wall += u.wall / noopRuns
		sum.cpu += u.cpu / noopRuns
		sum.peak = max(sum.peak, u.peak)
	}
	return sum
}

// usage is what a run of nodeagent took.
type usage struct {
	wall, cpu time.Duration
	peak      int64 // bytes of resident memory
}

// measure runs a command on the host. What it took includes the two small
// programs that enter the host.
func measure(b *testing.B, m *lab.Mercury, args ...string) usage {
	b.Helper()
	cmd, err := m.Command(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	rusage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return usage{
		wall: time.Since(start),
		cpu:  cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		peak: rusage.Maxrss * 1024,
	}
}

func report(b *testing.B, u usage) {
	b.ReportMetric(float64(u.wall.Milliseconds()), "wall-ms")
	b.ReportMetric(float64(u.cpu.Milliseconds()), "cpu-ms")
	b.ReportMetric(float64(u.peak)/(1<<20), "peak-MB")
}

// idleWindow is how long the daemon is watched while nothing happens.
const idleWindow = time.Minute

func benchmarkIdle(b *testing.B, m *lab.Mercury) {
	ctx := b.Context()
	if _, err := m.Exec(ctx, "systemctl", "enable", "--now", "nodeagent.service"); err != nil {
		b.Fatal(err)
	}
	pid, err := m.Exec(ctx, "systemctl", "show", "--property=MainPID", "--value", "nodeagent.service")
	if err != nil {
		b.Fatal(err)
	}
	pid = strings.TrimSpace(pid)
	for b.Loop() {
		before := lookAt(ctx, b, m, pid)
		select { // the window itself is what is measured
		case <-time.After(idleWindow):
		case <-ctx.Done():
			b.Fatal(ctx.Err())
		}
		after := lookAt(ctx, b, m, pid)
		b.ReportMetric(after.residentMB, "resident-MB")
		b.ReportMetric(float64(after.ticks-before.ticks)*10, "cpu-ms/min") // 100 ticks a second
		b.ReportMetric(float64(after.wakeups-before.wakeups), "wakeups/min")
	}
}

// idle is what the kernel counts of a process.
type idle struct {
	residentMB float64
	ticks      int64 // of CPU time, a hundredth of a second each
	wakeups    int64 // times that any thread of it was put to work
}

func lookAt(ctx context.Context, b *testing.B, m *lab.Mercury, pid string) idle {
	b.Helper()
	out, err := m.Exec(ctx, "sh", "-c", fmt.Sprintf(
		`cat /proc/%[1]s/status; sed 's/.*) //' /proc/%[1]s/stat | cut -d' ' -f12,13; grep -h ctxt_switches /proc/%[1]s/task/*/status`, pid))
	if err != nil {
		b.Fatal(err)
	}
	var look idle
	threads := false
	for line := range strings.Lines(out) {
		name, value, found := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(value)
		switch {
		case !found: // the two times; the threads' counters follow
			threads = true
			for _, ticks := range strings.Fields(line) {
				look.ticks += number(b, ticks)
			}
		case name == "VmRSS":
			look.residentMB = float64(number(b, fields[0])) / 1024
		case threads:
			look.wakeups += number(b, fields[0])
		}
	}
	return look
}

func number(b *testing.B, text string) int64 {
	b.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
