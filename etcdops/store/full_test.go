package store

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/test/apart"
	"github.com/nodeagent/nodeagent/test/s3"
)

// TestFull fills the disk of a share and that of an S3 server in the middle of an
// upload. It is said, nothing half stays, what was there is whole, and with room
// again the next run brings what is missing.
func TestFull(t *testing.T) {
	t.Parallel()
	s3.Program(t) // a missing one is said here, not in the namespaces
	if !apart.Run(t, unix.CLONE_NEWNS) {
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	disk := func() string {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	share := disk()
	bucket := disk()
	server := s3.Start(t, s3.Over(bucket))
	server.Bucket("backup", false)
	for _, c := range []struct {
		what string
		dir  string
		s    Store
	}{
		{"share", share, NewFolder(share)},
		{"bucket", bucket, open(t, server.URL, server.CAFile, "x")},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := newHost(t, c.s, mercury, hosts.Retention{Last: 2})
			first := h.take(2*time.Hour, smallPart/5)
			h.copy()
			second := h.take(time.Hour, 3*smallPart)
			result, err := Copy(context.Background(), h.copying())
			if !errors.Is(err, ErrFull) || !slices.Equal(result.Missing, []string{second}) {
				t.Fatalf("on a full disk: %+v, %v", result, err)
			}
			t.Log(err)
			if got := h.whole(); !slices.Equal(got, []string{first}) {
				t.Errorf("on a full disk there are %v", got)
			}
			if err := unix.Mount("tmpfs", c.dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			h.copy()
			if got := h.whole(); !slices.Equal(got, []string{second, first}) {
				t.Errorf("with room again there are %v", got)
			}
			if left, err := filepath.Glob(filepath.Join(c.dir, "c", "mercury", ".*")); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}
