package etcdops

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/apart"
)

// TestSaveOnADiskThatFillsUp saves to a file system of its own which is full
// after the nth page, or the nth inode, once the stream has begun, for each n
// until it is enough. Whatever fails, the snapshot from before is the only one,
// and nothing else is left.
func TestSaveOnADiskThatFillsUp(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNS) {
		return
	}
	h := startHost(t)
	fill(t, h, 4, 4<<10)
	disk, unmount := apart.Disk(t, "size=4m,nr_inodes=100")
	t.Cleanup(unmount)
	opts := h.saveOptions()
	opts.Dir = filepath.Join(disk, "snapshots")
	before, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(disk, "ballast")
	for _, tc := range []struct {
		name   string
		sealed bool
		fill   func(testing.TB, string, int)
		step   string
		more   int
	}{
		{"pages", false, apart.LeavePages, "file made", 2},
		{"inodes", false, apart.LeaveInodes, "member chosen", 1},
		{"pages, sealed", true, apart.LeavePages, "scratch made", 2},
		{"inodes, sealed", true, apart.LeaveInodes, "member chosen", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := opts
			if tc.sealed {
				opts.Sealing = Sealing{Compress: true, Recipients: []age.Recipient{identity(t).Recipient()}}
			}
			failed := 0
			for free := 0; ; free += tc.more {
				opts.step = func(name string) {
					mustPass(name) // a full disk says nothing of the database
					if name == tc.step {
						tc.fill(t, ballast, free)
					}
				}
				m, err := Save(t.Context(), opts)
				if err := os.RemoveAll(ballast); err != nil {
					t.Fatal(err)
				}
				if err == nil {
					if err := os.Remove(m.Path(opts.Dir)); err != nil {
						t.Fatal(err)
					}
					if err := os.Remove(manifestPath(m.Path(opts.Dir))); err != nil {
						t.Fatal(err)
					}
					break
				}
				if failed++; !errors.Is(err, syscall.ENOSPC) || failed > 200 {
					t.Fatalf("room for %d: %v", free, err)
				}
				if n := strings.Count(err.Error(), syscall.ENOSPC.Error()); n != 1 {
					t.Errorf("room for %d: told %d times: %v", free, n, err)
				}
				if entries, err := List(opts.Dir); err != nil || len(entries) != 1 || !entries[0].Good() || entries[0].Path != before.Path(opts.Dir) {
					t.Fatalf("room for %d: listed %+v, %v", free, entries, err)
				}
				if left := leftovers(t, opts.Dir); len(left) != 2 {
					t.Fatalf("room for %d: %v are left", free, left)
				}
			}
			if failed < 2 {
				t.Errorf("only %d saves met a full disk", failed)
			}
			t.Logf("%d saves met a full disk", failed)
		})
	}
	// A disk that is seen to be too small is refused before anything is sent.
	opts.step = nil
	apart.LeavePages(t, ballast, 1)
	opts.Progress = func(int64, int64) { t.Error("the stream began") }
	if _, err := Save(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("on a full disk: %v", err)
	}
	if _, err := Verify(t.Context(), before.Path(opts.Dir), VerifyOptions{}); err != nil {
		t.Errorf("the snapshot from before: %v", err)
	}
}

// TestSaveOnAReadOnlyDisk: nothing is saved, and what is there can be listed,
// verified and exported.
func TestSaveOnAReadOnlyDisk(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNS) {
		return
	}
	h := startHost(t)
	put(t, h, "a")
	disk, unmount := apart.Disk(t, "size=4m,nr_inodes=100")
	t.Cleanup(unmount)
	opts := h.saveOptions()
	opts.Dir, opts.Sealing.Compress = filepath.Join(disk, "snapshots"), true
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Save(t.Context(), opts); !errors.Is(err, syscall.EROFS) {
		t.Errorf("error %v", err)
	}
	if entries, err := List(opts.Dir); err != nil || len(entries) != 1 || !entries[0].Good() {
		t.Errorf("listed %+v, %v", entries, err)
	}
	open := VerifyOptions{OpenOptions: OpenOptions{Scratch: h.Root.Scratch()}}
	if _, err := Verify(t.Context(), m.Path(opts.Dir), open); err != nil {
		t.Error(err)
	}
	if _, err := ExportFile(t.Context(), m.Path(opts.Dir), open, h.file("plain.db")); err != nil {
		t.Error(err)
	}
}
