package vault

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/measure"
)

// effort is what a process took.
type effort struct {
	wall  time.Duration // from its start to its end
	there time.Duration // from its start until the last file was there
	cpu   time.Duration
	peak  float64 // MB, 10⁶ bytes, of resident memory
}

func reportEfforts(b *testing.B, ours, theirs []effort) {
	for _, m := range []struct {
		unit string
		of   func(effort) float64
	}{
		{"wall-ms", func(e effort) float64 { return milliseconds(e.wall) }},
		{"there-ms", func(e effort) float64 { return milliseconds(e.there) }},
		{"cpu-ms", func(e effort) float64 { return milliseconds(e.cpu) }},
		{"peak-MB", func(e effort) float64 { return e.peak }},
	} {
		us, them := spread(ours, m.of), spread(theirs, m.of)
		b.Logf("%-8s nodeagent %s, vault agent %s", m.unit, us, them)
		b.ReportMetric(us.median, "nodeagent-"+m.unit)
		b.ReportMetric(them.median, "vault-agent-"+m.unit)
		b.ReportMetric(us.median/them.median, strings.SplitN(m.unit, "-", 2)[0]+"-ratio")
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// spreadOf is the median of several values and what they lie between.
type spreadOf struct{ median, least, most float64 }

func (s spreadOf) String() string {
	return fmt.Sprintf("%.0f (%.0f to %.0f)", s.median, s.least, s.most)
}

func spread(list []effort, of func(effort) float64) spreadOf {
	var values []float64
	for _, e := range list {
		values = append(values, of(e))
	}
	slices.Sort(values)
	return spreadOf{values[len(values)/2], values[0], values[len(values)-1]}
}

// launch runs a program, in a root folder of its own where root names one; dir
// is where its files must be.
func launch(b *testing.B, l measure.Launcher, root, dir string, args ...string) effort {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), args[0], args[1:]...)
	cmd.Env = []string{"HOME=" + filepath.Dir(dir)} // and nothing of VAULT_…
	began := time.Now()
	took, err := l.Run(cmd, root)
	if err != nil {
		b.Fatal(err)
	}
	e := effort{wall: took.Wall, cpu: took.CPU, peak: float64(took.Peak) / 1e6}
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			e.there = max(e.there, info.ModTime().Sub(began))
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return e
}
