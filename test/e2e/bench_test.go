package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
	"github.com/nodeagent/nodeagent/test/measure"
)

// BenchmarkMercury measures nodeagent on a lab host: the converge of a bare
// host until all units are active, a converge with nothing to do, and the
// daemon while nothing happens. Run it with -benchtime 1x: each part is
// meaningful once, and repeats itself where a median is.
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
	launcher, err := measure.Build(ctx, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	h := measured{m, launcher}
	b.Run("cold", func(b *testing.B) { benchmarkCold(b, h) })
	b.Run("noop", func(b *testing.B) { benchmarkNoop(b, h) })
	b.Run("idle", func(b *testing.B) { benchmarkIdle(b, m, func() {}) })
	b.Run("scraped", func(b *testing.B) { benchmarkScraped(b, m) })
}

func benchmarkCold(b *testing.B, h measured) {
	for b.Loop() {
		b.StopTimer()
		if err := h.Reset(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := h.Boot(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		report(b, h.run(b, "nodeagent", "apply"))
	}
}

// noopRuns is how many runs a median is of.
const noopRuns = 20

func benchmarkNoop(b *testing.B, h measured) {
	for b.Loop() {
		entering, apply := h.repeat(b, "true"), h.repeat(b, "nodeagent", "apply")
		wall, cpu, peak := apply.spread()
		b.Logf("entering the host: %v\nnodeagent apply: %v", entering, apply)
		enteringWall, enteringCPU, _ := entering.spread()
		report(b, measure.Usage{Wall: wall - enteringWall, CPU: cpu - enteringCPU, Peak: peak})
	}
}

// measured is a lab host on which commands are measured.
type measured struct {
	*lab.Mercury
	launcher measure.Launcher
}

// run runs a command on the host. What it took includes the two small programs
// that enter the host.
func (h measured) run(b *testing.B, args ...string) measure.Usage {
	b.Helper()
	cmd, err := h.Command(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	u, err := h.launcher.Run(cmd, "")
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// runs are several of the same command.
type runs []measure.Usage

func (h measured) repeat(b *testing.B, args ...string) runs {
	b.Helper()
	var list runs
	for range noopRuns {
		list = append(list, h.run(b, args...))
	}
	return list
}

// spread returns the medians of times, and the largest peak.
func (r runs) spread() (wall, cpu time.Duration, peak int64) {
	var walls, cpus []time.Duration
	for _, u := range r {
		walls, cpus, peak = append(walls, u.Wall), append(cpus, u.CPU), max(peak, u.Peak)
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	return walls[len(walls)/2], cpus[len(cpus)/2], peak
}

func report(b *testing.B, u measure.Usage) {
	b.ReportMetric(float64(u.Wall.Microseconds())/1000, "wall-ms")
	b.ReportMetric(float64(u.CPU.Microseconds())/1000, "cpu-ms")
	b.ReportMetric(float64(u.Peak)/1e6, "peak-MB")
}

// idleWindow is how long the daemon is watched while nothing happens.
const idleWindow = time.Minute

// scrapeEvery is how often Prometheus asks, by its default in most fleets.
const scrapeEvery = 15 * time.Second

// benchmarkScraped is benchmarkIdle with Prometheus asking for metrics.
func benchmarkScraped(b *testing.B, m *lab.Mercury) {
	const file, address = "/etc/nodeagent/fleet/mercury.toml", "127.0.0.1:9470"
	spec, err := m.GetFile(file)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.PutFile(file, append(spec, "\n[metrics]\nlisten = \""+address+"\"\n"...), 0o644); err != nil {
		b.Fatal(err)
	}
	scrape := func(ctx context.Context) error {
		_, err := m.Get(ctx, "http://"+address+"/metrics")
		return err
	}
	if _, err := m.Exec(b.Context(), "systemctl", "stop", "nodeagent.service"); err != nil {
		b.Fatal(err)
	}
	benchmarkIdle(b, m, func() {
		if err := lab.Within(b.Context(), scrapeEvery, "metrics", scrape); err != nil {
			b.Fatal(err)
		}
	})
}

// benchmarkIdle starts the daemon and watches it while nothing happens but look.
func benchmarkIdle(b *testing.B, m *lab.Mercury, look func()) {
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
		for range idleWindow / scrapeEvery { // the window itself is what is measured
			look()
			select {
			case <-time.After(scrapeEvery):
			case <-ctx.Done():
				b.Fatal(ctx.Err())
			}
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
			look.residentMB = float64(number(b, fields[0])) * 1024 / 1e6
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
