package clock

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mark is what the kernel's command line has in the virtual machine alone.
const mark = "nodeagent.vm"

// requireGuest skips the test on a machine whose clock is not to be touched.
func requireGuest(t *testing.T) {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	must(t, err)
	isGuest := false
	for word := range strings.FieldsSeq(string(line)) {
		isGuest = isGuest || word == mark
	}
	switch {
	case os.Getenv("NODEAGENT_VM") != "1":
		t.Skip("it sets the machine's clock; it runs in the virtual machine's stage (make test-vm)")
	case !isGuest:
		t.Fatalf("NODEAGENT_VM is set, but the kernel's command line has no %q: the clock of this machine is not touched", mark)
	}
}

// set sets the clock, as a person does: the kernel then takes it for
// unsynchronised.
func set(t *testing.T, to time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(to.UnixNano())
	must(t, unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
	if synchronised(t) {
		t.Fatal("the kernel takes a clock for synchronised that was just set")
	}
}

// synchronise tells the kernel that the clock is right, as a time service does
// after it has set it, or has found it right.
func synchronise(t *testing.T) {
	t.Helper()
	const status, maxError, estimatedError = 0x10, 0x4, 0x8 // ADJ_STATUS, ADJ_MAXERROR, ADJ_ESTERROR
	change := unix.Timex{Modes: status | maxError | estimatedError, Maxerror: 1000, Esterror: 1000}
	if _, err := unix.Adjtimex(&change); err != nil {
		t.Fatal(err)
	}
	if !synchronised(t) {
		t.Fatal("the kernel does not take the clock for synchronised")
	}
}

func synchronised(t *testing.T) bool {
	t.Helper()
	var asked unix.Timex
	state, err := unix.Adjtimex(&asked)
	must(t, err)
	return state != unix.TIME_ERROR && asked.Status&unix.STA_UNSYNC == 0
}

// correct sets the clock as a time service does.
func correct(t *testing.T, to time.Time) {
	t.Helper()
	set(t, to)
	synchronise(t)
}

// uptime is how long ago the machine booted.
func uptime(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
	return time.Duration(ts.Nano())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
