package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// release gives memory back that only work needs: the free part of the heap,
// and the program's own pages.
func release() error {
	debug.FreeOSMemory()
	return unmapProgram()
}

// unmapProgram gives back the mapped pages of the program's own file. A start
// touches nearly all of its text and its tables; an idle daemon needs little of
// them. The pages stay in the page cache, where the kernel can take them if it
// needs them, and are mapped again when they are used: up to 2 MiB of them at one
// touch where the kernel keeps files in large pieces (Linux 6.18 with ext4), so that
// even a short look maps most of them.
func unmapProgram() error {
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("find the program's pages: %w", err)
	}
	defer maps.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's pages: %w", err)
	}
	mappings, err := readMappings(maps)
	if err != nil {
		return fmt.Errorf("find the program's pages: %w", err)
	}
	for _, m := range mappings {
		if m.file != program || !m.unchanged() {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("unmap the program's pages: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct {
	start, end uintptr
	mode       string
	file       string // "" for none
	// own is how much of it is not the file's: pages that were written to, in
	// memory or swapped out, in kB; negative where it is not known.
	own int
}

// unchanged tells whether nothing can be lost when the pages are mapped again:
// it cannot be written to, and was not. Where it can be read only, the loader
// may have relocated addresses in it, as in a position-independent program.
func (m mapping) unchanged() bool {
	return (m.mode == "r-xp" || m.mode == "r--p") && m.own == 0
}

// readMappings reads /proc/self/smaps (proc_pid_smaps(5)).
func readMappings(smaps io.Reader) ([]mapping, error) {
	var found []mapping
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") { // start-end mode offset device inode path
			m := mapping{mode: fields[1], own: -1}
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
				return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
			}
			if len(fields) > 5 {
				m.file = strings.Join(fields[5:], " ")
			}
			found = append(found, m)
			continue
		}
		if len(found) == 0 || fields[0] != "Anonymous:" && fields[0] != "Swap:" {
			continue
		}
		kB, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		m := &found[len(found)-1]
		m.own = max(m.own, 0) + kB
	}
	return found, lines.Err()
}
