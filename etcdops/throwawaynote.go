package etcdops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// processNote names one process for as long as the machine runs: a number alone
// is given to another one sooner or later.
type processNote struct {
	PID int `json:"pid"`
	// Started is in clock ticks since the boot, field 22 of proc_pid_stat(5).
	Started uint64 `json:"started"`
	Boot    string `json:"boot"`
}

func writeThrowawayNote(dir string, pid int) error {
	note, err := noteOf(pid)
	if err != nil {
		return err
	}
	content, err := json.Marshal(note)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, throwawayNote), append(content, '\n'), 0o600)
}

// EndThrowaway kills the throwaway etcd of the folder that has outlived whoever
// started it, and returns when it is gone. Most times there is none.
func EndThrowaway(dir string) error {
	path := filepath.Join(dir, throwawayNote)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a throwaway etcd that was left: %w", err)
	}
	var note processNote
	if err := json.Unmarshal(content, &note); err != nil || note.PID <= 1 {
		return fmt.Errorf("look for a throwaway etcd that was left: %q names no process: see whether one runs in that folder, end it and remove the file", path)
	}
	if err := note.kill(); err != nil {
		return fmt.Errorf("end the throwaway etcd that was left in %q: %w", dir, err)
	}
	return atomicfile.Remove(path)
}

// kill kills the process, if it is still the one of the note, and waits until it
// is gone.
func (n processNote) kill() error {
	// The handle stays that of one process, whatever becomes of its number.
	fd, err := unix.PidfdOpen(n.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", n.PID, err)
	}
	defer unix.Close(fd)
	if now, err := noteOf(n.PID); err != nil || now != n {
		return nil // another one has its number
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", n.PID, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(stopPatience/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for the end of process %d: %w", n.PID, err)
	}
	return nil
}

// noteOf identifies a process that runs.
func noteOf(pid int) (processNote, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processNote{}, err
	}
	// The second field is the program's name in brackets, which may have spaces
	// and brackets itself.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const started = 22 - 3 // the first one here is the third
	if len(fields) <= started {
		return processNote{}, fmt.Errorf("read /proc/%d/stat: it has %d fields", pid, len(fields)+2)
	}
	ticks, err := strconv.ParseUint(fields[started], 10, 64)
	if err != nil {
		return processNote{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processNote{}, err
	}
	return processNote{PID: pid, Started: ticks, Boot: strings.TrimSpace(string(boot))}, nil
}
