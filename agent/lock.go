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
type Lock struct {
	names []string
	files []*os.File
}

// lockOrder are the files to lock by domain, one for each lane of the daemon,
// in the order in which everybody takes them. That of proof comes first: while
// it is held, the components' and the certificates' are taken for a moment.
var lockOrder = []struct {
	name    string
	domains []string
}{
	{"proof.lock", []string{DomainProof}},
	{"host.lock", []string{DomainKernel, DomainHostNames, DomainNetwork}},
	{"cluster.lock", []string{DomainUnits, DomainCluster}},
	{"certificates.lock", []string{DomainPKI}},
}

// lockNames are the files to lock for the domains, in order.
func lockNames(domains []string) []string {
	var names []string
	for _, l := range lockOrder {
		if slices.ContainsFunc(domains, func(d string) bool { return slices.Contains(l.domains, d) }) {
			names = append(names, l.name)
		}
	}
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
	return take(ctx, root, lockNames(domains), patience)
}

// take locks the named files.
func take(ctx context.Context, root layout.Root, names []string, patience time.Duration) (*Lock, error) {
	lock := &Lock{names: names}
	deadline := time.Now().Add(patience)
	for _, name := range names {
		file, err := acquire(ctx, filepath.Join(root.Runtime(), name), deadline)
		if err != nil {
			return nil, errors.Join(err, lock.Release())
		}
		lock.files = append(lock.files, file)
	}
	return lock, nil
}

// Holds tells the host that its caller holds a lock all the time that it is
// used, so that it does not wait for that one itself.
func (h *Host) Holds(lock *Lock) { h.locked = lock.names }

// exclusively runs f while a domain's lock is held, by the caller or for the
// moment.
func (h *Host) exclusively(ctx context.Context, domain string, f func() error) error {
	names := slices.DeleteFunc(lockNames([]string{domain}), func(name string) bool { return slices.Contains(h.locked, name) })
	lock, err := take(ctx, h.root, names, lockPatience)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Release())
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
