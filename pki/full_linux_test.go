package pki

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// fullDisk marks the process in which TestDiskFull has a mount namespace of its
// own.
const fullDisk = "PKI_TEST_FULL_DISK"

// TestDiskFull renews on a real file system that is full after the nth page, and
// after the nth inode, for each n until the renewal succeeds. Whatever fails, one
// whole, matching pair is in use of each certificate, and with room again one
// apply completes.
func TestDiskFull(t *testing.T) {
	if os.Getenv(fullDisk) == "" {
		inMountNamespace(t)
		return
	}
	for _, tc := range []struct {
		name string
		fill func(h *host, dir string, free int)
	}{
		{"pages", leavePages},
		{"inodes", leaveInodes},
	} {
		t.Run(tc.name, func(t *testing.T) {
			failed := 0
			for free := 0; ; free++ {
				if free > 200 {
					t.Fatal("a renewal needs more room than can be")
				}
				if renewsWithin(t, free, tc.fill) {
					break
				}
				failed++
			}
			if failed < 10 {
				t.Errorf("only %d renewals met a full disk", failed)
			}
			t.Logf("%d renewals met a full disk", failed)
		})
	}
}

// inMountNamespace runs the test once more, where its mounts are its own.
func inMountNamespace(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), fullDisk+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no mount namespace: %v", err)
		}
		t.Skipf("no mount namespace, as this user may not have one: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "renewals met a full disk") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// renewsWithin renews a host's certificates on a file system of its own with
// little room left, and tells whether that was enough.
func renewsWithin(t *testing.T, free int, fill func(*host, string, int)) bool {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=2m,nr_inodes=400"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Fatal(err)
		}
	}()
	h := newHost(t, crashSpec())
	h.root = layout.Root(filepath.Join(disk, "root"))
	h.converge()
	h.now = start.Add(70 * day)
	before := h.observe()
	due := len(h.diff())
	ballast := filepath.Join(disk, "ballast")
	fill(h, ballast, free)
	err := h.apply(h.diff())
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("room for %d: %v", free, err)
	}
	have := h.observe()
	usable(t, have, free)
	if len(have.Certificates) != len(before.Certificates) {
		t.Fatalf("room for %d: %d certificates are left of %d", free, len(have.Certificates), len(before.Certificates))
	}
	for _, c := range have.Certificates {
		if c.Found.Condition != Sound || err == nil && c.Found.Serial == before.Pair(c.Name).Serial {
			t.Fatalf("room for %d: certificate %s is %v, serial %s", free, c.Name, c.Found.Condition, c.Found.Serial)
		}
	}
	if err := os.RemoveAll(ballast); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if due == 0 {
		t.Fatal("nothing was due")
	}
	return err == nil
}

// leavePages fills the file system but for so many pages.
func leavePages(h *host, ballast string, free int) {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(ballast), &s); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, (int64(s.Bavail)-int64(free))*s.Bsize), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// leaveInodes takes all inodes but so many.
func leaveInodes(h *host, ballast string, free int) {
	if err := os.Mkdir(ballast, 0o700); err != nil {
		h.t.Fatal(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(ballast, &s); err != nil {
		h.t.Fatal(err)
	}
	for i := range int(s.Ffree) - free {
		if err := os.Mkdir(filepath.Join(ballast, fmt.Sprint(i)), 0o700); err != nil {
			h.t.Fatal(err)
		}
	}
}
