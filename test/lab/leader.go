package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// findLeader finds the host's process 1: the child of systemd-nspawn that is
// number 1 in a process namespace of its own.
func (h *Host) findLeader(context.Context) error {
	if !h.container.alive() {
		return Permanent(fmt.Errorf("systemd-nspawn ended; it said:\n%s", h.consoleTail()))
	}
	entries, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		content, err := os.ReadFile(entry)
		if err != nil {
			continue // a process that ended meanwhile
		}
		parent, ids := family(string(content))
		if parent != h.container.PID || len(ids) != 2 || ids[1] != 1 {
			continue
		}
		leader, err := identify(ids[0])
		if err != nil {
			return err
		}
		h.leader = leader
		return nil
	}
	return errors.New("not started yet")
}

// family reads a process's parent and its ids from the outermost process
// namespace to its own out of /proc/PID/status.
func family(status string) (parent int, ids []int) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "PPid":
			parent, _ = strconv.Atoi(strings.TrimSpace(value))
		case "NSpid":
			for _, field := range strings.Fields(value) {
				id, _ := strconv.Atoi(field)
				ids = append(ids, id)
			}
		}
	}
	return parent, ids
}

// enter returns the id of the host's process 1, whose namespaces a command is
// about to enter. It is an error if the host is off, or if any of these
// namespaces is the machine's own: then the command must not run at all.
func (h *Host) enter() (int, error) {
	if !h.leader.alive() {
		return 0, fmt.Errorf("host %q is not running", h.name)
	}
	for _, kind := range []string{"mnt", "net", "pid", "uts"} {
		own, err := os.Readlink("/proc/thread-self/ns/" + kind)
		if err != nil {
			return 0, fmt.Errorf("enter host %q: %w", h.name, err)
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", h.leader.PID, kind))
		if err != nil {
			return 0, fmt.Errorf("enter host %q: %w", h.name, err)
		}
		if own == theirs {
			return 0, fmt.Errorf("enter host %q: its process 1 has the machine's own %s namespace", h.name, kind)
		}
	}
	return h.leader.PID, nil
}

func (h *Host) consoleTail() string {
	content, err := os.ReadFile(h.Console())
	if err != nil {
		return err.Error()
	}
	return last(strings.TrimSpace(string(content)), 2000)
}
