package lab_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// abandonVariable makes the test program play the one that is killed: it opens
// the lab that the variable names, boots a host and ends without a word.
const abandonVariable = "NODEAGENT_TEST_ABANDON_LAB"

// TestSweep removes a lab whose process was killed before it could clean up.
func TestSweep(t *testing.T) {
	if name := os.Getenv(abandonVariable); name != "" {
		abandon(t, name)
	}
	lab.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const name = "abandoned"
	killed := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSweep$", "-test.v")
	killed.Env = append(os.Environ(), abandonVariable+"="+name)
	out, err := killed.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the process that opens a lab was to be killed, it ended with %v and said:\n%s", err, out)
	}
	for kind, found := range traces(t, name) {
		if len(found) == 0 {
			t.Errorf("the killed process left no %s, so this test shows nothing about them", kind)
		}
	}
	if err := lab.Sweep(ctx, t.Output()); err != nil {
		t.Fatal(err)
	}
	for kind, found := range traces(t, name) {
		if len(found) > 0 {
			t.Errorf("sweeping left %s behind: %q", kind, found)
		}
	}
}

func abandon(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := lab.Open(ctx, lab.Options{Name: name, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AddSwitch(ctx, "lan"); err != nil {
		t.Fatal(err)
	}
	boot(ctx, t, l, "orphan", "198.51.100.11/24")
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done() // the signal is on its way
}
