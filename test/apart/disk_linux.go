package apart

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Disk mounts a tmpfs with the options ("size=4m,nr_inodes=100") in a folder of
// the test's and returns it with what takes it away. The test has a mount
// namespace of its own; nothing of it is seen outside.
func Disk(t testing.TB, options string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// LeavePages makes a file that fills its file system but for so many pages.
func LeavePages(t testing.TB, ballast string, free int) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(ballast), &s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, (int64(s.Bavail)-int64(free))*s.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
}

// LeaveInodes makes a folder that takes all inodes of its file system but so
// many.
func LeaveInodes(t testing.TB, ballast string, free int) {
	t.Helper()
	if err := os.Mkdir(ballast, 0o700); err != nil {
		t.Fatal(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(ballast, &s); err != nil {
		t.Fatal(err)
	}
	for i := range int(s.Ffree) - free {
		if err := os.Mkdir(filepath.Join(ballast, fmt.Sprint(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
