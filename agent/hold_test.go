package agent

import (
	"log/slog"
	"os"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// TestLinkProgram: units find this program by the link, whatever the link was.
func TestLinkProgram(t *testing.T) {
	root := layout.Root(t.TempDir())
	h := &Host{root: root, log: slog.New(slog.DiscardHandler)}
	h.spec.Store(&hosts.Spec{Name: "n1"})
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, before := range []string{"", program, "/nowhere/nodeagent"} {
		if before != "" {
			if err := os.Remove(root.Program()); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(before, root.Program()); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.linkProgram(); err != nil {
			t.Fatal(err)
		}
		if now, err := os.Readlink(root.Program()); err != nil || now != program {
			t.Errorf("the link was %q and leads to %q (%v), want %q", before, now, err, program)
		}
	}
}
