package etcdops

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// isInside tells whether the folder is the other one or lies in it, whatever
// links lead there. What is not there contains nothing.
func isInside(dir, other string) (bool, error) {
	around, err := os.Stat(other)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		if os.SameFile(info, around) {
			return true, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false, nil
		}
		dir = parent
	}
}

// defaultReserve is the share, in percent, at which kubelets begin to evict pods
// by default (nodefs.available).
const defaultReserve = 10

// checkSpace refuses a drill that would fill the disk, which others use as well.
// What a sealed snapshot is unsealed to is counted twice: on a file system without
// files that have no name it lies there beside the data that is made of it.
func (d *driller) checkSpace() error {
	info, err := os.Stat(d.Snapshot)
	if err != nil {
		return err
	}
	need := info.Size() + stageOverhead
	if m, err := readManifest(d.Snapshot); err == nil {
		need = m.Size + stageOverhead
		if !m.Stored.plain() {
			need += m.Size
		}
	}
	free, total, err := space(d.Scratch)
	if err != nil {
		return err
	}
	if reserve := total / 100 * int64(cmp.Or(d.Reserve, defaultReserve)); free-need < reserve {
		return fmt.Errorf("%q has %s free; the drill needs %s, and leaves at least %s to others: free some space, or name another scratch folder",
			d.Scratch, bytesText(free), bytesText(need), bytesText(reserve))
	}
	return nil
}

const (
	// memoryPerKey is what etcd's index and the counts take for each key at most,
	// memoryAtLeast what an empty etcd takes and a database's pages in use.
	memoryPerKey  = 1 << 10
	memoryAtLeast = 192 << 20
)

// checkMemory refuses a drill that would push out what others have in memory.
func checkMemory(keys int64) error {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	available, err := availableMemory(content)
	if err != nil {
		return err
	}
	if need := memoryAtLeast + keys*memoryPerKey; available < need {
		return fmt.Errorf("%s of memory are available, an etcd with %d keys may need %s: drill on a host that has more, `nodeagent snapshot drill`", bytesText(available), keys, bytesText(need))
	}
	return nil
}

// availableMemory reads the content of /proc/meminfo: what can be had in bytes
// without swapping, see proc_meminfo(5).
func availableMemory(content []byte) (int64, error) {
	for line := range bytes.Lines(content) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo does not tell what memory is available")
}
