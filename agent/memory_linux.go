package agent

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// release gives memory back that only work needs: the free part of the heap,
// and the mapped pages of the program's text. A start touches nearly all of
// the text; an idle daemon needs little of it. The pages stay in the page
// cache, where the kernel can take them if it needs them, and are mapped again
// when they are run.
func release() error {
	debug.FreeOSMemory()
	text, err := textMappings()
	if err != nil {
		return fmt.Errorf("find the program's text: %w", err)
	}
	for _, m := range text {
		// Only executable mappings: they are never written to, so that nothing
		// can be lost. Read-only data is left alone, for a position-independent
		// program has relocated pages in it.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("unmap the program's text: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// textMappings returns the private executable mappings of the program's own
// file (proc_pid_maps(5)).
func textMappings() ([]mapping, error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	var found []mapping
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// start-end perms offset device inode path
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "r-xp" || strings.Join(fields[5:], " ") != program {
			continue
		}
		var m mapping
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		found = append(found, m)
	}
	return found, lines.Err()
}
