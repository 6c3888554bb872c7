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

// lockNames are the files to lock for the domains (none: all), in order.
func lockNames(domains []string) []string {
	if len(domains) == 0 {
		domains = DomainNames()
	}
	var names []string
	for _, l := range lockOrder {
		if slices.ContainsFunc(domains, func(d string) bool { return slices.Contains(l.domains, d) }) {
			names = append(names, l.name)
		}
	}
	return names
}

// Acquire takes the lock of the named domains (none: all) for a command. A daemon
// that holds it and waits gives way; for other holders it waits up to patience.
// The error wraps ErrLocked when it stays taken.
func Acquire(ctx context.Context, root layout.Root, domains []string, patience time.Duration) (*Lock, error) {
	return take(ctx, root, lockNames(domains), true, patience)
}

// acquireQuietly takes the lock of the named domains for the daemon, once no
// command has it or asks for it.
func acquireQuietly(ctx context.Context, root layout.Root, domains []string) (*Lock, error) {
	return take(ctx, root, lockNames(domains), false, lockPatience)
}

// take locks the named files, for a command or for the daemon.
func take(ctx context.Context, root layout.Root, names []string, command bool, patience time.Duration) (*Lock, error) {
	if err := atomicfile.MkdirAll(root.Runtime(), 0o700); err != nil {
		return nil, fmt.Errorf("lock the host: %w (nodeagent must run as root to change a host)", err)
	}
	lock := &Lock{names: names}
	deadline := time.Now().Add(patience)
	for _, name := range names {
		file, err := acquire(ctx, filepath.Join(root.Runtime(), name), deadline, command)
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
	lock, err := take(ctx, h.root, names, !h.heed, lockPatience)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Release())
}

// acquire locks one file, trying until the deadline.
func acquire(ctx context.Context, path string, deadline time.Time, command bool) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the host: %w", err)
	}
	if command {
		err = ask(file)
	}
	for err == nil {
		var done bool
		if done, err = try(file, command); done {
			return file, nil
		}
		if err == nil && !time.Now().Before(deadline) {
			err = fmt.Errorf("%w: %s holds %q; wait until it is done, or end it", ErrLocked, signature(file), path)
		}
		if err == nil && !sleepUntil(ctx, time.Now().Add(lockPause)) {
			err = ctx.Err()
		}
	}
	return nil, errors.Join(err, file.Close())
}

// try locks the file unless somebody else has it; the daemon leaves it to
// commands that ask for it, too.
func try(file *os.File, command bool) (bool, error) {
	if !command {
		if others, err := asked(file); others || err != nil {
			return false, err
		}
	}
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err == nil && command {
		err = stopAsking(file)
	}
	if err != nil {
		return false, fmt.Errorf("lock %q: %w", file.Name(), err)
	}
	// For whoever finds it taken; the lock itself is the kernel's.
	_ = sign(file)
	return true, nil
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
	file, err := acquire(ctx, filepath.Join(root.Runtime(), "run.lock"), time.Now(), false)
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
