package names

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// runningName is the kernel's name of the host.
func runningName() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read the running host name: %w", err)
	}
	return unix.ByteSliceToString(u.Nodename[:]), nil
}

// setRunningName sets the kernel's name of the host and reads it back.
func setRunningName(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the running host name %q: %w; this needs root", name, err)
	}
	is, err := runningName()
	if err == nil && is != name {
		err = fmt.Errorf("set the running host name %q: the kernel made it %q", name, is)
	}
	return err
}

// Watch sends a signal whenever the running host name was set, until ctx is
// done; it then closes the channel. The kernel announces it to those that poll
// the sysctl (proc_sys_poll in fs/proc/proc_sysctl.c).
func (s *System) Watch(ctx context.Context) (<-chan struct{}, error) {
	// Not by package os, whose poller would take the announcements.
	name, err := unix.Open("/proc/sys/kernel/hostname", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the running host name: %w", err)
	}
	var stop [2]int
	if err := unix.Pipe2(stop[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the running host name: %w", err), unix.Close(name))
	}
	undo := context.AfterFunc(ctx, func() { unix.Close(stop[1]) })
	signals := make(chan struct{}, 1)
	go func() {
		defer close(signals)
		defer unix.Close(name)
		defer unix.Close(stop[0])
		if waitForName(name, stop[0], signals) != nil && undo() {
			unix.Close(stop[1])
		}
	}()
	return signals, nil
}

// waitForName signals each time that the name was set until stop is hung up.
func waitForName(name, stop int, signals chan<- struct{}) error {
	for {
		fds := []unix.PollFd{{Fd: int32(name), Events: unix.POLLPRI}, {Fd: int32(stop)}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if fds[1].Revents != 0 {
			return nil
		}
		if fds[0].Revents == 0 {
			continue
		}
		select {
		case signals <- struct{}{}:
		default: // one is waiting already
		}
	}
}
