package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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

// gauge is test/measure.
type gauge struct{ program string }

func newGauge(b *testing.B) *gauge {
	b.Helper()
	g := &gauge{filepath.Join(b.TempDir(), "measure")}
	cmd := exec.CommandContext(b.Context(), "go", "build", "-o", g.program, "github.com/nodeagent/nodeagent/test/measure")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build test/measure: %v\n%s", err, out)
	}
	return g
}

// launch runs a program with test/measure, in a root folder of its own where
// root names one; dir is where its files must be.
func (g *gauge) launch(b *testing.B, root, dir string, args ...string) effort {
	b.Helper()
	if root != "" {
		args = append([]string{"-chroot", root}, args...)
	}
	cmd := exec.CommandContext(b.Context(), g.program, args...)
	cmd.Env = []string{"HOME=" + filepath.Dir(dir)} // and nothing of VAULT_…
	var output bytes.Buffer
	cmd.Stderr = &output
	began := time.Now()
	answer, err := cmd.Output()
	var took struct {
		Wall, CPU time.Duration
		Peak      float64
	}
	if err == nil {
		err = json.Unmarshal(answer, &took)
	}
	if err != nil {
		b.Fatalf("%s: %v\n%s", cmd, err, &output)
	}
	e := effort{wall: took.Wall, cpu: took.CPU, peak: took.Peak / 1e6}
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
