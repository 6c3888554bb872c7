package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Every host has a control group of its own in each hierarchy that the machine
// has mounted. The host sees it as the root of that hierarchy, so the groups
// that its kubelet makes for pods lie below, apart from other hosts', and go
// when the host goes.

// cgroups are the folders of the host's control groups.
func (h *Host) cgroups() []string {
	var dirs []string
	for _, parent := range cgroupParents() {
		dirs = append(dirs, filepath.Join(parent, "nodeagent-lab-"+h.machine()))
	}
	return dirs
}

// unified is where version 2 of control groups is mounted on a machine that
// has nothing else.
const unified = "/sys/fs/cgroup"

// cgroupParents are the folders that hosts' control groups are made in, one
// for each mounted hierarchy: this process's own groups, so that what limits
// it limits its hosts too. Version 2 is different: a group with processes of
// its own cannot hand its controllers down, so hosts go to the top.
func cgroupParents() []string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	own := ownCgroups()
	var parents []string
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, fstype := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(fstype) < 3 || (fstype[0] != "cgroup" && fstype[0] != "cgroup2") {
			continue
		}
		mount := fields[4]
		parent := mount
		for _, option := range append(strings.Split(fstype[2], ","), fstype[0]) {
			dir := filepath.Join(mount, own[option])
			if info, err := os.Stat(dir); err == nil && info.IsDir() && own[option] != "" && mount != unified {
				parent = dir
			}
		}
		parents = append(parents, parent)
	}
	return parents
}

// ownCgroups maps a controller, a named hierarchy ("name=systemd") or
// "cgroup2" to this process's path in it.
func ownCgroups() map[string]string {
	own := map[string]string{}
	file, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return own
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "" {
			parts[1] = "cgroup2"
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			own[controller] = parts[2]
		}
	}
	return own
}

func (h *Host) makeCgroups() error {
	for _, dir := range h.cgroups() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		// A new cpuset of cgroup v1 is empty, and takes no process so.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("make control group: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes the host's control groups with all below. Processes
// that are still in them were started by the host and outlived it.
func (h *Host) removeCgroups(ctx context.Context) error {
	return Until(ctx, "the control groups of host "+h.name+" to be empty", func(context.Context) error {
		var errs []error
		for _, dir := range h.cgroups() {
			errs = append(errs, removeCgroup(dir))
		}
		return errors.Join(errs...)
	})
}

func removeCgroup(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			groups = append(groups, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, group := range slices.Backward(groups) { // children first
		if err := killMembers(group); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Remove(group); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func killMembers(group string) error {
	members, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for field := range strings.FieldsSeq(string(members)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 1 {
			return fmt.Errorf("control group %s has a member %q", group, field)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill member %d of control group %s: %w", pid, group, err)
		}
	}
	return nil
}
