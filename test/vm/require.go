package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// tools are the programs that a virtual machine takes on this machine and the
// Debian package that each comes in.
var tools = []struct{ program, pkg string }{
	{emulator, "qemu-system-x86"},
	{"depmod", "kmod"},
	{"debootstrap", "debootstrap"},
	{"dpkg-deb", "dpkg"},
	{"apt-get", "apt"},
}

// Require skips the test, with the reason, where no virtual machine can be
// made. With CI=true the same reason fails it: a green run there means that the
// machine was really booted.
func Require(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a virtual machine; left out by -short")
	}
	err := missing()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%v (CI=true makes this a failure)", err)
	}
	t.Skip(err)
}

func missing() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the virtual machine is an amd64 one, this machine is %s", runtime.GOARCH)
	}
	var programs, packages []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.program); err != nil {
			programs = append(programs, tool.program)
			packages = append(packages, tool.pkg)
		}
	}
	if len(programs) > 0 {
		return fmt.Errorf("the virtual machine needs %s; install with: apt-get install %s (or: make deps)",
			strings.Join(programs, ", "), strings.Join(packages, " "))
	}
	if os.Geteuid() != 0 {
		return errors.New("the programs of the virtual machine come from the lab's root folder, which debootstrap makes as root; run this as root")
	}
	return nil
}
