package etcdops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// etcdDir is the folder around etcd's data folder. The staged and the old data
// of a restore, its journal and the marker lie in it, on the same file system.
func etcdDir(root layout.Root) string { return filepath.Dir(root.EtcdData()) }

// Initialised tells whether etcd has once been healthy on this host.
func Initialised(root layout.Root) bool {
	_, err := os.Stat(root.EtcdMarker())
	return err == nil
}

// Begun tells whether etcd has been healthy on this host and nothing is left of
// how it began: then there is nothing for [MarkInitialised] to do.
func Begun(root layout.Root) bool {
	_, err := os.Stat(root.EtcdStart())
	return Initialised(root) && errors.Is(err, os.ErrNotExist)
}

// MarkInitialised writes the marker if it is not there, and then takes back the
// permission to start without data. Call it once etcd is seen to be healthy.
func MarkInitialised(root layout.Root, now time.Time) error {
	if err := writeMarker(root, now); err != nil {
		return err
	}
	if err := atomicfile.Remove(declaredPath(root)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return removeStart(root)
}

func writeMarker(root layout.Root, now time.Time) error {
	path := root.EtcdMarker()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := atomicfile.MkdirAll(etcdDir(root), 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf("etcd was first healthy on this host on %s.\n"+
		"While this file is here nodeagent does not start etcd with an empty data folder.\n", now.UTC().Format(time.RFC3339))
	return atomicfile.Write(path, []byte(text), 0o600)
}

// ErrDataLost is the error of [Starter.Permit] where etcd has run before and its
// data folder is empty now: etcd would begin a new, empty cluster in place of the
// one that there was, and every controller would take that for the truth.
var ErrDataLost = errors.New("etcd's data is gone")

// hasData tells whether etcd would find a member in the data folder and so not
// begin a new one. Like etcd it looks for write-ahead log files.
func hasData(dataDir string) (bool, error) {
	logs, err := filepath.Glob(filepath.Join(dataDir, "member", "wal", "*.wal"))
	if err != nil {
		return false, err
	}
	if len(logs) > 0 {
		return true, nil
	}
	if _, err := os.ReadDir(dataDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err // Glob hides a folder that cannot be read
	}
	return false, nil
}
