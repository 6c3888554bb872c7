package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nodeagent/nodeagent/test/apart"
)

// TestWatchWithoutInotify: where the kernel has no inotify instance left,
// changes are looked for, and watched for once there is one.
func TestWatchWithoutInotify(t *testing.T) {
	t.Parallel()
	// A user namespace has limits of its own, namespaces(7).
	if !apart.Run(t, syscall.CLONE_NEWUSER) {
		return
	}
	instances := func(n string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	instances("0")
	dir := t.TempDir()
	events := make(chan Event)
	watchTrees(t.Context(), slog.New(slog.NewTextHandler(t.Output(), nil)), events, Event{Source: "files"}, dir)
	<-events // it looks without being told
	instances("8")
	<-events // it has looked, and watches now
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a file, watched again")
}
