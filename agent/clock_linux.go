package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// clockStep is by how much the clock must have been set for that to count: more
// than what a time service corrects in passing.
const clockStep = time.Minute

// clockLook is how often is asked whether the clock is synchronised: a time
// service that finds it nearly right does not set it, so nothing tells of it.
const clockLook = 5 * time.Second

// clockWatch knows whether the clock was set since the boot. The zero value has
// not looked yet.
type clockWatch struct {
	mu   sync.Mutex
	note clockNote
}

// clockNote is what is known of the clock. The daemon keeps it where it does not
// survive a reboot, so that its next process and other commands know it too.
type clockNote struct {
	// Booted is when the host booted, by the clock as it was last seen; the zero
	// time where nobody has looked.
	Booted time.Time `json:"booted"`
	// Step is what the uptime was when the clock was last seen to be set to
	// another time, in nanoseconds; 0 where it was not.
	Step time.Duration `json:"step"`
}

// after is the note after another look at the clock.
func (n clockNote) after(uptime time.Duration, now time.Time) clockNote {
	booted := now.Round(0).Add(-uptime) // without the monotonic clock, which nobody sets
	if !n.Booted.IsZero() && booted.Sub(n.Booted).Abs() > clockStep {
		n.Step = uptime
	}
	n.Booted = booted
	return n
}

// observePKI is what lies on disk, and what is known of the clock.
func (h *Host) observePKI(ctx context.Context) (pki.State, error) {
	have, err := pki.Observe(ctx, h.root)
	have.Clock = h.lookAtClock(pki.ObserveClock(), time.Now())
	return have, err
}

// ObserveCertificates is what lies on a host's disk, and what is known of its
// clock, for those who do not open the host. It changes nothing; the error names
// what could not be read.
func ObserveCertificates(ctx context.Context, root layout.Root) (pki.State, error) {
	have, err := pki.Observe(ctx, root)
	have.Clock = pki.ObserveClock()
	have.Clock.Stepped = readClockNote(clockNotePath(root)).Step
	return have, err
}

func clockNotePath(root layout.Root) string { return filepath.Join(root.Runtime(), "clock.json") }

// lookAtClock completes what the kernel tells of the clock. The daemon, who
// always looks, notices that it was set and notes it for others, who only read.
func (h *Host) lookAtClock(c pki.Clock, now time.Time) pki.Clock {
	h.clock.mu.Lock()
	defer h.clock.mu.Unlock()
	path := clockNotePath(h.root)
	kept := readClockNote(path)
	if !h.heed {
		c.Stepped = kept.Step
		return c
	}
	if h.clock.note.Booted.IsZero() {
		h.clock.note = kept
	}
	note := h.clock.note.after(c.Uptime, now)
	h.clock.note = note
	// In small steps the moment of the boot moves all the time.
	if note.Step != kept.Step || note.Booted.Sub(kept.Booted).Abs() > clockStep/2 {
		if err := writeClockNote(path, note); err != nil {
			h.log.Warn("other commands do not know whether the clock was set", "error", err)
		}
	}
	c.Stepped = note.Step
	return c
}

// readClockNote is what was noted; nothing where that cannot be read, as nothing
// may hang on it.
func readClockNote(path string) clockNote {
	content, err := os.ReadFile(path)
	if err != nil {
		return clockNote{}
	}
	var n clockNote
	if json.Unmarshal(content, &n) != nil {
		return clockNote{}
	}
	return n
}

func writeClockNote(path string, n clockNote) error {
	content, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, content, 0o600)
}

// watchClock signals each time that the clock is set, or becomes synchronised or
// ceases to be, until ctx is done. A certificate may have ended by it, or what
// held issuing back.
func watchClock(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch the clock: %w", err)
	}
	if err := armClock(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	timer := os.NewFile(uintptr(fd), "clock")
	stop := context.AfterFunc(ctx, func() { _ = timer.Close() })
	signals := make(chan struct{}, 1)
	go func() {
		defer close(signals)
		defer stop()
		defer timer.Close()
		doubt := unsynchronised()
		for ctx.Err() == nil {
			set, err := clockSet(timer)
			if err != nil {
				return
			}
			before := doubt
			if doubt = unsynchronised(); !set && doubt == before {
				continue
			}
			select {
			case signals <- struct{}{}:
			default: // one waits already
			}
		}
	}()
	return signals, nil
}

// clockSet waits until the clock is set, or until it is time to look whether it
// is synchronised.
func clockSet(timer *os.File) (set bool, err error) {
	if err := timer.SetReadDeadline(time.Now().Add(clockLook)); err != nil {
		return false, err
	}
	// It never runs off: a read ends with ECANCELED when the clock is set.
	_, err = timer.Read(make([]byte, 8))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false, nil
	case errors.Is(err, unix.ECANCELED):
		return true, control(timer, armClock)
	case err == nil:
		err = errors.New("watch the clock: a timer ran off that never does")
	}
	return false, err
}

// unsynchronised tells whether nobody vouches for the clock.
func unsynchronised() bool {
	c := pki.ObserveClock()
	return c.Unsynchronised && !c.Vouched
}

// armClock sets a timer for a moment that never comes, to be cancelled when the
// clock is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
func armClock(fd int) error {
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 40}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		return fmt.Errorf("watch the clock: %w", err)
	}
	return nil
}

// control calls do with the descriptor of a file while that stays open.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
