package etcdops

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// scratch makes a file without a name in the folder, which is made with mode
// 0700 if missing: whatever happens, a power cut included, nothing of it stays.
// Its path is good for opening it again while it is open.
func scratch(dir string) (f *os.File, path string, err error) {
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		f = os.NewFile(uintptr(fd), dir)
		return f, scratchPath(f), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, "", &os.PathError{Op: "make a file without a name in", Path: dir, Err: err}
	}
	// The file system has none; what a power cut leaves before the next line is
	// cleaned like any temporary file.
	if f, err = os.CreateTemp(dir, atomicfile.TempPrefix); err != nil {
		return nil, "", err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, scratchPath(f), nil
}

func scratchPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
