package etcdops

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// scratchFile is a file without a name: whatever happens, a power cut included,
// nothing of it stays.
type scratchFile struct {
	*os.File
	// path is good for opening it again while it is open.
	path string
	// linkable tells that it can be given a name on its disk.
	linkable bool
}

// scratch makes a file without a name in the folder, which is made with mode
// 0700 if missing.
func scratch(dir string) (scratchFile, error) {
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return scratchFile{}, err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return newScratch(os.NewFile(uintptr(fd), dir), true), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return scratchFile{}, &os.PathError{Op: "make a file without a name in", Path: dir, Err: err}
	}
	// The file system has none; what a power cut leaves before the next line is
	// cleaned like any temporary file.
	f, err := os.CreateTemp(dir, atomicfile.TempPrefix)
	if err != nil {
		return scratchFile{}, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return scratchFile{}, errors.Join(err, f.Close())
	}
	return newScratch(f, false), nil
}

func newScratch(f *os.File, linkable bool) scratchFile {
	return scratchFile{f, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), linkable}
}
