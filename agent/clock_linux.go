package agent

import "golang.org/x/sys/unix"

// monotonicMicroseconds reads CLOCK_MONOTONIC, which systemd compares with its
// own reading; Go's monotonic clock has another zero.
func monotonicMicroseconds() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail for this clock; 0 makes systemd ignore the reload state
	}
	return ts.Nano() / 1000
}
