package etcdops

import (
	"os"

	"golang.org/x/sys/unix"
)

// spread writes to a file and has the disk begin with what is written while more
// comes: the sync at the end has little left to do, and those who write beside, as
// etcd does, never wait for all of it at once.
type spread struct {
	f              *os.File
	written, begun int64
}

// spreadSize is how much the disk is asked to begin with at once.
const spreadSize = 16 << 20

func (s *spread) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	if s.written += int64(n); s.written-s.begun >= spreadSize {
		// A hint: where it fails, the sync that follows tells why.
		_ = unix.SyncFileRange(int(s.f.Fd()), s.begun, s.written-s.begun, unix.SYNC_FILE_RANGE_WRITE)
		s.begun = s.written
	}
	return n, err
}
