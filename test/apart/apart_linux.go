// Package apart runs a test in namespaces of its own, so that it can mount,
// configure a network or meet a limit without the machine noticing.
package apart

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// mark is the environment variable that names the test which runs apart.
const mark = "NODEAGENT_TEST_APART"

// Run runs the calling test once more, in a process with the namespaces of the
// CLONE_NEW… flags, and returns true in that process. It returns false in the
// process that was there before, when that run has passed. Users who are not
// root get a user namespace besides, in which they are; where they may have
// none the test is skipped, which fails it in CI.
func Run(t *testing.T, namespaces uintptr) bool {
	t.Helper()
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	if cmd.SysProcAttr.Cloneflags&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) && os.Getenv("CI") != "true" {
		t.Skipf("this user may not make namespaces: %v", err)
	}
	// A test that was skipped there, or not found, has proved nothing.
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in namespaces of its own: %v\n%s", err, out)
	}
	t.Logf("in namespaces of its own:\n%s", out)
	return false
}
