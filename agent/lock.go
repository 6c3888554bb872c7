package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// ErrLocked is the error of a host that another nodeagent is changing.
var ErrLocked = errors.New("another nodeagent is changing this host")

// Lock is held while the host is being changed, so that apply, run and restore
// take turns. The kernel frees it when the process ends, however it ends.
type Lock struct{ file *os.File }

// Acquire takes the lock, waiting up to patience for whoever holds it. The
// error wraps ErrLocked when it stays taken.
func Acquire(ctx context.Context, root layout.Root, patience time.Duration) (*Lock, error) {
	if err := atomicfile.MkdirAll(root.Runtime(), 0o700); err != nil {
		return nil, fmt.Errorf("lock the host: %w (nodeagent must run as root to change a host)", err)
	}
	path := filepath.Join(root.Runtime(), "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the host: %w", err)
	}
	deadline := time.Now().Add(patience)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &Lock{file}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), file.Close())
		}
		if !time.Now().Before(deadline) {
			return nil, errors.Join(fmt.Errorf("%w: %q was not free within %v", ErrLocked, path, patience), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Release frees the lock.
func (l *Lock) Release() error { return l.file.Close() }
