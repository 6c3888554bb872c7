// Package insystemd runs the tests that need a systemd as process 1 where
// there is one: in a lab host. They lie with the packages that they test and
// are named TestReal….
package insystemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/test/lab"
)

func TestUnits(t *testing.T) { runInHost(t, "github.com/nodeagent/nodeagent/internal/units") }

// raceFlags are the flags that turn the race detector on if it is on here.
var raceFlags []string

// runInHost compiles the tests of a package and runs those that want a real
// systemd in a host of their own.
func runInHost(t *testing.T, pkg string) {
	lab.Require(t)
	binary := filepath.Join(t.TempDir(), "inside.test")
	args := append([]string{"test", "-c", "-o", binary}, raceFlags...)
	if out, err := exec.CommandContext(t.Context(), "go", append(args, pkg)...).CombinedOutput(); err != nil {
		t.Fatalf("compile the tests of %s: %v\n%s", pkg, err, out)
	}
	host, err := lab.New(t).AddHost(t.Context(), lab.HostOptions{Name: "systemd"})
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	// Not below /tmp or /run, which a running host mounts anew.
	const inside = "/usr/local/lib/lab/inside.test"
	if err := host.PutReader(inside, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	args = []string{"env", "NODEAGENT_REAL_SYSTEMD=1", inside, "-test.run=^TestReal", "-test.v", "-test.timeout=3m"}
	// More flags of the tests inside, to work on one of them.
	args = append(args, strings.Fields(os.Getenv("NODEAGENT_REAL_FLAGS"))...)
	cmd, err := host.Command(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	combined, err := cmd.CombinedOutput()
	out := string(combined)
	t.Logf("in the host:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "--- PASS: TestReal") || strings.Contains(out, "--- SKIP") {
		t.Fatal("no test ran, or one was skipped")
	}
}
