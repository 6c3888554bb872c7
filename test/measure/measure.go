// Package measure runs programs and says what they took, for benchmarks.
//
// A benchmark cannot ask the kernel for itself: at execve(2) Linux counts the
// memory of the process that started a program to the program's peak, and a
// test binary is larger than what it measures. A small program in between,
// launch, is not.
package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// Usage is what a program took, with those that it started and waited for.
type Usage struct {
	Wall time.Duration `json:"wall"` // nanoseconds
	CPU  time.Duration `json:"cpu"`  // nanoseconds
	Peak int64         `json:"peak"` // bytes of resident memory, of the largest one
	// PeakAnon is the peak of the program's own memory in bytes: resident without
	// mapped files, as looked at every 10 ms.
	PeakAnon int64 `json:"peakAnon"`
}

// Launcher runs programs.
type Launcher struct{ program string }

// Build builds launch in a folder.
func Build(ctx context.Context, dir string) (Launcher, error) {
	l := Launcher{filepath.Join(dir, "launch")}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", l.program, "github.com/nodeagent/nodeagent/test/measure/launch")
	if out, err := cmd.CombinedOutput(); err != nil {
		return l, fmt.Errorf("build test/measure/launch: %w\n%s", err, out)
	}
	return l, nil
}

// Run runs a command that was not started yet, in a root folder of its own
// where root names one. The error has what the program printed.
func (l Launcher) Run(cmd *exec.Cmd, root string) (Usage, error) {
	cmd.Args = append([]string{l.program, "-chroot", root, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = l.program
	var output bytes.Buffer
	cmd.Stderr = &output
	answer, err := cmd.Output()
	var u Usage
	if err == nil {
		err = json.Unmarshal(answer, &u)
	}
	if err != nil {
		return u, fmt.Errorf("%s: %w\n%s", cmd, err, &output)
	}
	return u, nil
}
