package vm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/nodeagent/nodeagent/test/servers"
)

// tools are the programs that a virtual machine takes on this machine.
var tools = []servers.Tool{
	{Program: emulator, Package: "qemu-system-x86"},
	{Program: "depmod", Package: "kmod"},
	{Program: "debootstrap", Package: "debootstrap"},
	{Program: "dpkg-deb", Package: "dpkg"},
	{Program: "apt-get", Package: "apt"},
}

// Require skips the test, with the reason, where no virtual machine can be
// made. With CI=true the same reason fails it.
func Require(t testing.TB) {
	t.Helper()
	servers.Require(t, "boots a virtual machine", missing, "CI=true")
}

func missing() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the virtual machine is an amd64 one, this machine is %s", runtime.GOARCH)
	}
	if err := servers.MissingTools("the virtual machine", tools); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the programs of the virtual machine come from the lab's root folder, which debootstrap makes as root; run this as root")
	}
	return nil
}
