package confirm

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is USER_HZ, the unit of /proc/<pid>/stat, which is 100 on every
// architecture that Go runs on.
const ticks = 100

// Now is the present moment.
func Now() (Moment, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Moment{}, fmt.Errorf("read the boot's id: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return Moment{}, fmt.Errorf("read the time since boot: %w", err)
	}
	return Moment{Boot: strings.TrimSpace(string(id)), Up: time.Duration(ts.Nano())}, nil
}

// Here is the session that this process belongs to.
func Here() (Session, error) {
	var ancestors []Process
	for pid := os.Getppid(); pid > 1; {
		p, parent, err := process(pid)
		if err != nil {
			return Session{}, fmt.Errorf("find out which connection this is: %w", err)
		}
		ancestors = append(ancestors, p)
		pid = parent
	}
	return SessionOf(ancestors, os.Getenv("SSH_CONNECTION") != "" || os.Getenv("SSH_CLIENT") != ""), nil
}

func process(pid int) (Process, int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, 0, err
	}
	p, parent, err := parseStat(string(stat))
	if err == nil && servers[p.Name] {
		p.Listens, err = listens(pid)
	}
	return p, parent, err
}

// parseStat reads proc_pid_stat(5): the name in parentheses may hold anything;
// the parent is field 4, the start time field 22.
func parseStat(stat string) (Process, int, error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, 0, fmt.Errorf("parse %q: no name", stat)
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return Process{}, 0, fmt.Errorf("parse %q: too few fields", stat)
	}
	parent, err := strconv.Atoi(fields[1])
	started, startErr := strconv.ParseInt(fields[19], 10, 64)
	return Process{Name: stat[open+1 : end], Started: time.Duration(started) * time.Second / ticks}, parent, errors.Join(err, startErr)
}

// listens tells whether a process has a TCP socket in the state LISTEN.
func listens(pid int) (bool, error) {
	listening := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		if err := readListening(fmt.Sprintf("/proc/%d/net/%s", pid, table), listening); err != nil {
			return false, err
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name())) // closed meanwhile
		if listening[target] {
			return true, nil
		}
	}
	return false, err
}

func readListening(path string, into map[string]bool) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 9 && f[3] == "0A" {
			into["socket:["+f[9]+"]"] = true
		}
	}
	return lines.Err()
}
