package lab

import (
	"errors"
	"os"
	"testing"

	"github.com/nodeagent/nodeagent/test/servers"
)

// tools are the programs a lab calls on the machine.
var tools = []servers.Tool{
	{Program: "systemd-nspawn", Package: "systemd-container"},
	{Program: "debootstrap", Package: "debootstrap"},
	{Program: "ip", Package: "iproute2"},
	{Program: "nsenter", Package: "util-linux"},
	{Program: "unshare", Package: "util-linux"},
	{Program: "umount", Package: "mount"},
}

// Require skips the test, with the reason, where no lab can run: not root, or
// a tool is missing. Where the lab is what is to be tested (CI=true, or
// NODEAGENT_REQUIRE_LAB=1), the same reason fails the test: a green run there
// means that the hosts were really booted.
func Require(t testing.TB) {
	t.Helper()
	servers.Require(t, "boots a whole host", missing, "CI=true", "NODEAGENT_REQUIRE_LAB=1")
}

// missing says what a lab lacks on this machine, all of it at once.
func missing() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab boots hosts in namespaces of their own, which needs root; run this as root (nothing of the machine outside the lab is changed)")
	}
	return servers.MissingTools("the lab", tools)
}
