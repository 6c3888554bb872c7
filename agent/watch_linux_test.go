package agent

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// ownWatches marks the process that has a limit of its own of how many inotify
// instances there may be.
const ownWatches = "AGENT_TEST_OWN_WATCHES"

// TestWatchWithoutInotify: where the kernel has no inotify instance left,
// changes are looked for, and watched for once there is one.
func TestWatchWithoutInotify(t *testing.T) {
	if os.Getenv(ownWatches) == "" {
		t.Parallel()
		inUserNamespace(t)
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

// inUserNamespace runs the test once more in a user namespace, whose limits of
// what its users may have are its own (namespaces(7)).
func inUserNamespace(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), ownWatches+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no user namespace: %v", err)
		}
		t.Skipf("no user namespace, as this user may not have one: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
