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

	"github.com/nodeagent/nodeagent/internal/layout"
)

// The daemon waits for minutes for what does not become ready, such as an API
// server while etcd has no quorum, and holds the lock meanwhile. That must not
// keep out the very command that would mend it. So a command that finds a lock
// taken asks for it, and the daemon gives way: it ends its converge where it
// stands, as if it had been killed there, frees the lock, and converges anew when
// the command is done. Asking is a lock of the kernel's as well, a shared one on
// the file's first byte, that ends with the process.

// errGaveWay is why a converge of the daemon ended before its time.
var errGaveWay = errors.New("nodeagent run gives way to a command that changes this host, and goes on after it")

// askByte is locked by those who ask; it stands apart from the lock itself, which
// is of the kind of flock(2).
func askByte(kind int16) *unix.Flock_t {
	return &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: 0, Len: 1}
}

// ask makes known that somebody waits for the lock; closing the file ends it, too.
func ask(file *os.File) error {
	return unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, askByte(unix.F_RDLCK))
}

func stopAsking(file *os.File) error {
	return unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, askByte(unix.F_UNLCK))
}

// asked tells whether somebody else asks for the lock.
func asked(file *os.File) (bool, error) {
	question := askByte(unix.F_WRLCK)
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, question); err != nil {
		return false, fmt.Errorf("ask who waits for %q: %w", file.Name(), err)
	}
	return question.Type != unix.F_UNLCK, nil
}

// patientDomains are those whose Apply waits for components, which may never become
// ready. The others are not ended: what the end of a change of the network means,
// that change decides by itself.
var patientDomains = []string{DomainUnits, DomainProof, DomainCluster}

// givingWay returns a context that ends, with errGaveWay, when a command asks for
// the lock of what the daemon is converging, and a function that frees it.
func givingWay(ctx context.Context, root layout.Root, domains []string) (context.Context, func()) {
	if slices.ContainsFunc(domains, func(d string) bool { return !slices.Contains(patientDomains, d) }) {
		return ctx, func() {}
	}
	ctx, giveWay := context.WithCancelCause(ctx)
	go func() {
		for sleepUntil(ctx, time.Now().Add(lockPause)) {
			// Proof takes the components' lock while it holds its own.
			if anyAsked(root, lockNames(patientDomains)) {
				giveWay(errGaveWay)
			}
		}
	}()
	return ctx, func() { giveWay(nil) }
}

// anyAsked tells whether a command asks for one of the locks. One that cannot be
// looked at is none that the daemon holds.
func anyAsked(root layout.Root, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		file, err := os.OpenFile(filepath.Join(root.Runtime(), name), os.O_RDWR, 0)
		if err != nil {
			return false
		}
		defer file.Close()
		yes, err := asked(file)
		return yes && err == nil
	})
}
