package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// components are the units that nodeagent manages on mercury, in the order
// they depend on each other.
var components = []string{
	layout.Unit(layout.Etcd),
	layout.Unit(layout.Containerd),
	layout.Unit(layout.APIServer),
	layout.Unit(layout.ControllerManager),
	layout.Unit(layout.Scheduler),
	layout.Unit(layout.Kubelet),
	layout.Unit(layout.KubeProxy),
}

// observation is what a host holds, thing by thing: a file's path, a sysctl's
// name, a line that ip or systemctl prints.
type observation map[string]string

// diff tells what is different in the other observation, a line each.
func (o observation) diff(other observation) []string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if now, ok := other[key]; !ok {
			lines = append(lines, fmt.Sprintf("- %s: %s", key, o[key]))
		} else if now != o[key] {
			lines = append(lines, fmt.Sprintf("~ %s: %s -> %s", key, o[key], now))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(other)) {
		if _, ok := o[key]; !ok {
			lines = append(lines, fmt.Sprintf("+ %s: %s", key, other[key]))
		}
	}
	return lines
}

// owned is the part of the observation that changes only when somebody changes
// the host's settings: not what the components write while they run.
func (o observation) owned() observation {
	owned := observation{}
	for key, value := range o {
		if file, ok := strings.CutPrefix(key, "file "); ok && busy(file) {
			continue
		}
		owned[key] = value
	}
	return owned
}

// busy tells whether a file belongs to a component that runs, or is where
// nodeagent says how it is.
func busy(file string) bool {
	for _, dir := range []string{
		"var/lib/etcd", "var/lib/nodeagent/etcd", "var/lib/kubelet", "var/lib/containerd",
		"var/lib/cni", "var/lib/kube-proxy", "var/log", "var/cache",
	} {
		if file == dir || strings.HasPrefix(file, dir+"/") {
			return true
		}
	}
	return false
}

// observe looks at everything that nodeagent could change, from outside the
// host where it can, so that looking does not change anything itself.
func observe(h *host) observation {
	h.t.Helper()
	o := observation{}
	for _, dir := range []string{"etc", "root", "usr", "var", "opt"} {
		if err := o.files(h.Root(), dir); err != nil {
			h.t.Fatalf("look at /%s of the host: %v", dir, err)
		}
	}
	// What lies on the host's own file systems is not in its root folder.
	o.lines("run", h.must("find", "/run", "/tmp", "-mindepth", "1", "-maxdepth", "1", "-printf", "%p %y %m %U:%G\n"))
	for _, line := range strings.Split(h.must("sysctl", "-a"), "\n") {
		name, value, _ := strings.Cut(line, " = ")
		if !counters[name] && !strings.HasPrefix(name, "kernel.random.") {
			o["sysctl "+name] = value
		}
	}
	o.lines("link", h.must("ip", "-o", "link")) // with -details it prints running timers
	o.lines("address", h.must("ip", "-o", "address"))
	o.lines("route", h.must("ip", "-o", "route", "show", "table", "all"))
	o.lines("route6", h.must("ip", "-o", "-6", "route", "show", "table", "all"))
	o.lines("rule", h.must("ip", "-o", "rule"))
	o.lines("nftables", h.must("nft", "--stateless", "list", "tables"))
	o.lines("unit file", h.must("systemctl", "list-unit-files", "--plain", "--no-legend", "--no-pager"))
	for _, line := range strings.Split(h.must("systemctl", "list-units", "--all", "--type=service,socket,timer", "--plain", "--no-legend", "--no-pager"), "\n") {
		if fields := strings.Fields(line); len(fields) > 3 {
			o["unit "+fields[0]] = strings.Join(fields[1:4], " ")
		}
	}
	return o
}

// counters are sysctls that only count: the kernel changes them by itself.
var counters = map[string]bool{
	"fs.dentry-state": true, "fs.file-nr": true, "fs.inode-nr": true, "fs.inode-state": true,
	"fs.aio-nr": true, "fs.quota.syncs": true, "kernel.ns_last_pid": true, "kernel.pty.nr": true,
	"net.netfilter.nf_conntrack_count": true,
}

func (o observation) lines(kind, text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			o[kind+" "+line] = "there"
		}
	}
}

// files adds each file below a folder with all that a write would change: the
// change time cannot be set back by the writer.
func (o observation) files(root, dir string) error {
	return filepath.WalkDir(filepath.Join(root, dir), func(name string, entry fs.DirEntry, err error) error {
		inside, relErr := filepath.Rel(root, name)
		if err = errors.Join(err, relErr); err != nil {
			if errors.Is(err, fs.ErrNotExist) { // gone between listing and looking
				return nil
			}
			return err
		}
		if noise(inside) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil // gone between listing and looking
		}
		stat := info.Sys().(*syscall.Stat_t)
		value := fmt.Sprintf("%s %d:%d", info.Mode(), stat.Uid, stat.Gid)
		if info.Mode().IsRegular() {
			value += fmt.Sprintf(" %d bytes, modified %d.%09d, changed %d.%09d", stat.Size, stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec)
			if strings.HasPrefix(inside, "etc/") || strings.HasPrefix(inside, "var/lib/nodeagent/") {
				value += " sha256 " + hash(name)
			}
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(name)
			value += fmt.Sprintf(" -> %s (%v)", target, err)
		}
		o["file "+inside] = value
		return nil
	})
}

// noise tells what the operating system writes by itself at any time.
func noise(file string) bool {
	return file == "var/log/journal" || file == "var/log/wtmp" || file == "var/log/lastlog" ||
		file == "var/lib/systemd/timers" || file == "var/tmp" || strings.HasPrefix(file, "var/lib/systemd/timers/")
}

func hash(name string) string {
	content, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

// mainPIDs are the main processes of the components.
func mainPIDs(h *host) map[string]string {
	h.t.Helper()
	pids := map[string]string{}
	for _, unit := range components {
		pids[unit] = strings.TrimSpace(h.must("systemctl", "show", "--property=MainPID", "--value", unit))
	}
	return pids
}
