package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// state is what a lab writes down about itself before and while it makes
// things, so that another process can find and remove them.
type state struct {
	Name  string      `json:"name"`
	ID    string      `json:"id"` // the name made unique on the machine
	Owner process     `json:"owner"`
	Keep  bool        `json:"keep"`
	Hosts []hostState `json:"hosts"`
}

type hostState struct {
	Name  string `json:"name"`
	Links []Link `json:"links"`
	Binds []Bind `json:"binds"`
	// Container is systemd-nspawn, Leader the host's process 1. Both are
	// zero while the host is off.
	Container process `json:"container"`
	Leader    process `json:"leader"`
}

// A process is named by its id and its start time, since ids are used again.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the machine's boot
}

// identify reads a running process's start time.
func identify(pid int) (process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	// The command's name, in parentheses, may hold anything; fields are
	// counted after it. The start time is field 22 (proc_pid_stat(5)), the
	// first one after the name is field 3.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return process{}, fmt.Errorf("identify process %d: /proc/%d/stat has only %d fields", pid, pid, len(fields))
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("identify process %d: start time: %w", pid, err)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return process{}, fmt.Errorf("identify process %d: it has ended: %w", pid, os.ErrProcessDone)
	}
	return process{PID: pid, Start: start}, nil
}

// alive tells whether this very process still runs.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p
}

func (l *Lab) save() error {
	l.state.Hosts = nil
	for _, h := range l.hosts {
		l.state.Hosts = append(l.state.Hosts, h.state())
	}
	content, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("save state of lab %q: %w", l.state.Name, err)
	}
	// Renamed, so that a reader never sees half of it.
	file := filepath.Join(l.dir, "lab.json")
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return fmt.Errorf("save state of lab %q: %w", l.state.Name, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("save state of lab %q: %w", l.state.Name, err)
	}
	return nil
}

func (l *Lab) load(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, &l.state); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, "lab.json"), err)
	}
	l.dir = dir
	for _, s := range l.state.Hosts {
		h := &Host{lab: l, name: s.Name, links: s.Links, binds: s.Binds}
		h.container, h.leader = s.Container, s.Leader
		l.hosts = append(l.hosts, h)
	}
	return nil
}
