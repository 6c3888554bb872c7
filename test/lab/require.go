package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// tools are the programs a lab calls on the machine and the Debian package
// each comes in.
var tools = []struct{ program, pkg string }{
	{"systemd-nspawn", "systemd-container"},
	{"debootstrap", "debootstrap"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"unshare", "util-linux"},
	{"umount", "mount"},
}

// Require skips the test, with the reason, where no lab can run: not root, or
// a tool is missing. Where the lab is what is to be tested (CI=true, or
// NODEAGENT_REQUIRE_LAB=1), the same reason fails the test: a green run there
// means that the hosts were really booted.
func Require(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a whole host; left out by -short")
	}
	err := missing()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" || os.Getenv("NODEAGENT_REQUIRE_LAB") == "1" {
		t.Fatalf("%v (CI=true or NODEAGENT_REQUIRE_LAB=1 makes this a failure)", err)
	}
	t.Skip(err)
}

// missing says what a lab lacks on this machine, all of it at once.
func missing() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab boots hosts in namespaces of their own, which needs root; run this as root (nothing of the machine outside the lab is changed)")
	}
	var programs, packages []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.program); err != nil {
			programs = append(programs, tool.program)
			packages = append(packages, tool.pkg)
		}
	}
	if len(programs) > 0 {
		return fmt.Errorf("the lab needs %s; install with: apt-get install %s (or: make deps)",
			strings.Join(programs, ", "), strings.Join(packages, " "))
	}
	return nil
}
