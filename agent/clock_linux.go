package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/pki"
)

// clockStep is by how much the clock must have been set for that to count: more
// than what a time service corrects in passing.
const clockStep = time.Minute

// clockWatch knows whether the clock was set while this process looked. The zero
// value has not looked yet.
type clockWatch struct {
	mu     sync.Mutex
	looked bool
	booted time.Time // when the host booted, by the clock as it was last seen
	step   time.Duration
}

// look completes what the kernel tells of the clock.
func (w *clockWatch) look(c pki.Clock, now time.Time) pki.Clock {
	w.mu.Lock()
	defer w.mu.Unlock()
	booted := now.Round(0).Add(-c.Uptime) // without the monotonic clock, which nobody sets
	if w.looked && booted.Sub(w.booted).Abs() > clockStep {
		w.step = c.Uptime
	}
	w.looked, w.booted = true, booted
	c.Stepped = w.step
	return c
}

// observePKI is what lies on disk, and what is known of the clock.
func (h *Host) observePKI(ctx context.Context) (pki.State, error) {
	have, err := pki.Observe(ctx, h.root)
	have.Clock = h.clock.look(pki.ObserveClock(), time.Now())
	return have, err
}

// watchClock signals each time that the clock is set, until ctx is done. A
// certificate may have ended by it, or not have begun.
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
		buffer := make([]byte, 8)
		for ctx.Err() == nil {
			// It never runs off: a read ends with ECANCELED when the clock is set.
			if _, err := timer.Read(buffer); !errors.Is(err, unix.ECANCELED) {
				return
			}
			select {
			case signals <- struct{}{}:
			default: // one waits already
			}
			if err := control(timer, armClock); err != nil {
				return
			}
		}
	}()
	return signals, nil
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
