package etcdops

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ioprioIdle is the class of disk priorities that is served when nobody else
// wants the disk; see ioprio_set(2), from whose header the numbers are.
const (
	ioprioIdle       = 3 << 13
	ioprioWhoProcess = 1
)

// LowerProcess gives all threads of this process, those that are made later and
// the processes that they start what CPU and disk nobody else wants. There is no
// way back.
func LowerProcess() error {
	seen := map[int]bool{}
	for again := true; again; {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("lower the priority: %w", err)
		}
		// A thread that appears meanwhile may be the child of one that was not
		// lowered yet.
		again = false
		for _, entry := range threads {
			thread, err := strconv.Atoi(entry.Name())
			if err != nil || seen[thread] {
				continue
			}
			if err := lowerThread(thread); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			seen[thread], again = true, true
		}
	}
	return nil
}

// lowerThread does so for one thread, 0 being the one that calls.
func lowerThread(thread int) error {
	if err := unix.SchedSetAttr(thread, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE, Nice: 19}, 0); err != nil {
		return fmt.Errorf("lower the priority of thread %d on the CPU: %w", thread, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(thread), ioprioIdle); errno != 0 {
		return fmt.Errorf("lower the priority of thread %d on the disk: %w", thread, errno)
	}
	return nil
}
