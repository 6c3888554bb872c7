package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// ErrLocked is the error of a host that another nodeagent is changing.
var ErrLocked = errors.New("another nodeagent is changing this host")

// Lock is held while domains of the host are being changed, so that apply, run
// and restore take turns. The kernel frees it when the process ends, however it
// ends.
type Lock struct{ files []*os.File }

// lockNames are the files to lock for the domains: one for each lane of the
// daemon, in an order that is the same for everybody.
func lockNames(domains []string) []string {
	var names []string
	for _, d := range domains {
		name := "cluster.lock"
		if d == DomainKernel || d == DomainHostNames || d == DomainNetwork {
			name = "host.lock"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names
}

// Acquire takes the lock of the named domains (none: all), waiting up to
// patience for whoever holds it. The error wraps ErrLocked when it stays taken.
func Acquire(ctx context.Context, root layout.Root, domains []string, patience time.Duration) (*Lock, error) {
	if len(domains) == 0 {
		domains = DomainNames()
	}
	if err := atomicfile.MkdirAll(root.Runtime(), 0o700); err != nil {
		return nil, fmt.Errorf("lock the host: %w (nodeagent must run as root to change a host)", err)
	}
	lock := &Lock{}
	deadline := time.Now().Add(patience)
	for _, name := range lockNames(domains) {
		file, err := acquire(ctx, filepath.Join(root.Runtime(), name), deadline)
		if err != nil {
			return nil, errors.Join(err, lock.Release())
		}
		lock.files = append(lock.files, file)
	}
	return lock, nil
}

// acquire locks one file, trying until the deadline.
func acquire(ctx context.Context, path string, deadline time.Time) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the host: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// For whoever finds it taken; the lock itself is the kernel's.
			_ = sign(file)
			return file, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), file.Close())
		}
		if !time.Now().Before(deadline) {
			return nil, errors.Join(fmt.Errorf("%w: %s holds %q; wait until it is done, or end it", ErrLocked, signature(file), path), file.Close())
		}
		if !sleepUntil(ctx, time.Now().Add(lockPause)) {
			return nil, errors.Join(ctx.Err(), file.Close())
		}
	}
}

// sign writes who holds the lock into its file.
func sign(file *os.File) error {
	command := filepath.Base(os.Args[0])
	if len(os.Args) > 1 {
		command += " " + os.Args[1] // no more: arguments are nobody else's business
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(fmt.Sprintf("process %d (%s)", os.Getpid(), command)), 0)
	return err
}

// signature is who holds the lock.
func signature(file *os.File) string {
	content, err := io.ReadAll(io.NewSectionReader(file, 0, 1024))
	if err != nil || len(content) == 0 {
		return "a process"
	}
	return string(content)
}

// AcquireDaemon takes the lock that a daemon holds all its life. A second one is
// refused at once: the two would undo each other's work.
func AcquireDaemon(ctx context.Context, root layout.Root) (*Lock, error) {
	if err := atomicfile.MkdirAll(root.Runtime(), 0o700); err != nil {
		return nil, fmt.Errorf("lock the host: %w (nodeagent must run as root to change a host)", err)
	}
	file, err := acquire(ctx, filepath.Join(root.Runtime(), "run.lock"), time.Now())
	if err != nil {
		return nil, err
	}
	return &Lock{files: []*os.File{file}}, nil
}

// lockPause is the pause between two tries to lock.
const lockPause = 100 * time.Millisecond

// Release frees the lock.
func (l *Lock) Release() error {
	var failed []error
	for _, file := range slices.Backward(l.files) {
		failed = append(failed, file.Close())
	}
	return errors.Join(failed...)
}
