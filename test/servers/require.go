package servers

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Tool is a program that tests call on the machine, and the Debian package that
// it comes in.
type Tool struct{ Program, Package string }

// MissingTools says which of the tools are not there, all of them at once, and
// what installs them; who is who needs them: "the lab".
func MissingTools(who string, tools []Tool) error {
	var programs, packages []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.Program); err != nil {
			programs = append(programs, tool.Program)
			packages = append(packages, tool.Package)
		}
	}
	if len(programs) > 0 {
		return fmt.Errorf("%s needs %s; install with: apt-get install %s (or: make deps)",
			who, strings.Join(programs, ", "), strings.Join(packages, " "))
	}
	return nil
}

// Require skips the test with the reason that missing gives, or because tests
// that take long are left out. Where one of the environment variables is set as
// written, "CI=true", the reason fails the test: a green run there means that it
// was really run. what is what the test does: "boots a whole host".
func Require(t testing.TB, what string, missing func() error, must ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip(what + "; left out by -short")
	}
	err := missing()
	if err == nil {
		return
	}
	for _, variable := range must {
		name, value, _ := strings.Cut(variable, "=")
		if os.Getenv(name) == value {
			t.Fatalf("%v (%s makes this a failure)", err, variable)
		}
	}
	t.Skip(err)
}
