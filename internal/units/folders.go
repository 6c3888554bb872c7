package units

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// folders are the places of unit files, below the root that stands for "/".
type folders struct{ root layout.Root }

func (f folders) below(path string) string { return filepath.Join(string(f.root)+"/", path) }

func (f folders) persistent() string { return f.below("etc/systemd/system") }

func (f folders) runtime() string { return f.below("run/systemd/system") }

// vendor are the folders that packages write unit files to, in falling order
// of precedence. A unit file of ours would hide one of the same name there.
func (f folders) vendor() []string {
	return []string{f.below("usr/local/lib/systemd/system"), f.below("usr/lib/systemd/system"), f.below("lib/systemd/system")}
}

// components is the folder below which every file is nodeagent's.
func (f folders) components() string { return filepath.Dir(f.root.Component("x")) }

// chosen is the folder where unit files belong on this host: the persistent
// one unless it is read-only (on NixOS it is a link into the store) or absent.
// Nothing is written to find out. A folder that merely forbids the calling
// user to write is still the right one: plan must give the same answer to
// everybody.
func (f folders) chosen() (string, error) {
	dir := f.persistent()
	err := unix.Access(dir, unix.W_OK)
	switch {
	case err == nil:
		return dir, nil
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOENT):
		return f.runtime(), nil
	case !errors.Is(err, unix.EACCES):
		return "", fmt.Errorf("choose folder for unit files: access %q: %w", dir, err)
	}
	// For users without the permission the kernel says so first and not that
	// the mount is read-only.
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("choose folder for unit files: statfs %q: %w", dir, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return f.runtime(), nil
	}
	return dir, nil
}

// other is the one of the two folders that was not chosen.
func (f folders) other(chosen string) string {
	if chosen == f.persistent() {
		return f.runtime()
	}
	return f.persistent()
}
