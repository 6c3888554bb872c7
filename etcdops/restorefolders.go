package etcdops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// chooseFolders decides where the new and the old data lie.
func (p *RestorePlan) chooseFolders(root layout.Root) error {
	p.DataDir = root.EtcdData()
	p.StagedDir = p.DataDir + ".restore-" + p.ID
	why := keptByRestore
	if p.Undo {
		why = keptByUndo
	}
	p.AsideDir = asideName(p.DataDir, why, p.Planned)
	var err error
	if p.HadData, err = hasData(p.DataDir); err != nil {
		return err
	}
	return exchangeable(p.DataDir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// asideName is where data that was live is kept: a name that no folder has.
func asideName(dataDir, why string, now time.Time) string {
	name := fmt.Sprintf("%s.before-%s-%s", dataDir, why, now.UTC().Format(timeInName))
	for i, path := 2, name; ; i++ {
		if !exists(path) {
			return path
		}
		path = fmt.Sprintf("%s-%d", name, i)
	}
}

// exchangeable refuses a data folder that cannot be renamed.
func exchangeable(dir string) error {
	var self, parent unix.Stat_t
	err := unix.Lstat(dir, &self)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", dir, err)
	}
	if self.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%q is no folder: a restore exchanges it by renaming, so let it be a plain folder", dir)
	}
	if err := unix.Stat(filepath.Dir(dir), &parent); err != nil {
		return fmt.Errorf("look at %q: %w", filepath.Dir(dir), err)
	}
	if self.Dev != parent.Dev {
		return fmt.Errorf("%q is a mount point and cannot be exchanged by renaming: mount its disk at %q instead", dir, filepath.Dir(dir))
	}
	return nil
}

// stageOverhead is what staged data takes beyond the database: two write-ahead
// log files, which etcd allocates in full (64 MB each), and room for a database
// that grows while it is opened.
const stageOverhead = 192 << 20

func (p *RestorePlan) checkSpace() error {
	dir := existing(filepath.Dir(p.DataDir))
	free, err := FreeBytes(dir)
	if err != nil {
		return err
	}
	need := p.Snapshot.Size + stageOverhead
	if p.Trial != "" {
		need *= 2
	}
	if p.source != nil && p.source.linkable {
		// What lies unsealed on that disk already becomes the data.
		same, err := sameDisk(p.source.File, dir)
		if err != nil {
			return err
		}
		if same {
			need -= p.Snapshot.Size
		}
	}
	if free < need {
		return fmt.Errorf("%q has %s free, the restore needs %s beside the old data, which is kept: free some space, for example old %s folders",
			dir, bytesText(free), bytesText(need), filepath.Base(p.DataDir)+".before-restore-*")
	}
	return nil
}

// existing is the folder, or the nearest one above it that is there.
func existing(dir string) string {
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

func sameDisk(f *os.File, dir string) (bool, error) {
	var one, other unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &one), unix.Stat(dir, &other)); err != nil {
		return false, fmt.Errorf("look at %q: %w", dir, err)
	}
	return one.Dev == other.Dev, nil
}
