package pki

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/apart"
)

// TestDiskFull renews on a real file system that is full after the nth page, and
// after the nth inode, for each n until the renewal succeeds. Whatever fails, one
// whole, matching pair is in use of each certificate, and with room again one
// apply completes.
func TestDiskFull(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNS) {
		return
	}
	for _, tc := range []struct {
		name string
		fill func(t testing.TB, ballast string, free int)
	}{
		{"pages", apart.LeavePages},
		{"inodes", apart.LeaveInodes},
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

// renewsWithin renews a host's certificates on a file system of its own with
// little room left, and tells whether that was enough.
func renewsWithin(t *testing.T, free int, fill func(testing.TB, string, int)) bool {
	t.Helper()
	disk, unmount := apart.Disk(t, "size=2m,nr_inodes=400")
	defer unmount()
	h := newHost(t, crashSpec())
	h.root = layout.Root(filepath.Join(disk, "root"))
	h.converge()
	h.now = start.Add(70 * day)
	before := h.observe()
	due := len(h.diff())
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast, free)
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
