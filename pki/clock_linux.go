package pki

import (
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timesyncMark is made by systemd-timesyncd when it has set the clock for the
// first time since the boot (systemd-timesyncd.service(8)).
const timesyncMark = "/run/systemd/timesync/synchronized"

// ObserveClock asks the kernel about the clock and changes nothing. What cannot
// be asked speaks for the clock. Whether it was set since the boot, only who
// watched knows: Stepped is left to the caller.
//
// The kernel takes the clock for unsynchronised until a time service says
// otherwise, after somebody has set it, and when no service was heard for hours
// (STA_UNSYNC of adjtimex(2)).
func ObserveClock() Clock {
	c := Clock{Built: built()}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return c // without it no wait would end
	}
	c.Uptime = time.Duration(up.Nano())
	var t unix.Timex // no mode: only asked
	state, err := unix.Adjtimex(&t)
	c.Unsynchronised = err == nil && (state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0)
	_, err = os.Stat(timesyncMark)
	c.Vouched = err == nil
	return c
}

// built is when the sources of this program were committed; where the build
// does not know that, the zero time.
var built = sync.OnceValue(func() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			at, _ := time.Parse(time.RFC3339, s.Value) // the zero time with an error
			return at
		}
	}
	return time.Time{}
})
