package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Embedded is what a fleet within the program is called where others have their
// folder.
const Embedded = "embedded:"

// Source is where a fleet is read, and what the machine adds to what it says.
type Source struct {
	// Dir is the folder of the fleet's files; nothing else is read where FS is set.
	Dir string
	// FS has the files of a fleet within the program, nil for none.
	FS fs.FS
	// Binaries and CNIBinaries are where this machine has the programs of
	// components and of the network, for fleets that do not say it: what
	// kubernetes.binaries and kubernetes.cni_binaries are by default. Empty means
	// nodeagent's own defaults. Links on the way are followed when the fleet is
	// loaded, so that a link to another release is another spec.
	Binaries, CNIBinaries string
}

// Files are the fleet's files.
func (s Source) Files() fs.FS {
	if s.FS != nil {
		return s.FS
	}
	return os.DirFS(s.Dir)
}

// Name is what the fleet is called for people: its folder, or [Embedded].
func (s Source) Name() string {
	if s.FS != nil {
		return Embedded
	}
	return s.Dir
}

// place is the folder behind all links, which is what tells one release of a
// fleet from the next.
func (s Source) place() string {
	if s.FS != nil {
		return Embedded
	}
	return behind(s.Dir)
}

// behind follows the links of a folder; one that is not there stays as it is.
func behind(dir string) string {
	real, err := filepath.EvalSymlinks(dir)
	if dir == "" || err != nil {
		return dir
	}
	if absolute, err := filepath.Abs(real); err == nil {
		return absolute
	}
	return real
}

// Load reads the fleet; see the function [Load].
func (s Source) Load() (*Fleet, error) {
	if s.FS == nil {
		if err := isFolder(s.Dir); err != nil {
			return nil, fmt.Errorf("read fleet %q: %w; name the folder that holds %s and a file for each host", s.Dir, unwrapPath(err), clusterTOML)
		}
	}
	l := loader{findings: &findings{}, binaries: behind(s.Binaries), cniBinaries: behind(s.CNIBinaries)}
	fleet, err := l.loadFS(s.Files(), ".")
	var invalid *InvalidError
	switch {
	case errors.As(err, &invalid):
		invalid.Dir = s.Name()
		return nil, invalid
	case err != nil:
		return nil, fmt.Errorf("read fleet %q: %w", s.Name(), err)
	}
	fleet.Dir = s.Name()
	for _, host := range fleet.Hosts {
		host.Fleet = s.place()
	}
	return fleet, nil
}

func isFolder(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a folder")
	}
	return err
}

// Folders are those whose changes are the fleet's.
func (s Source) Folders() []string {
	if s.FS != nil {
		return nil
	}
	return []string{s.Dir}
}

// SamePrograms tells whether both specs have their programs at the same place.
func (s *Spec) SamePrograms(other *Spec) bool {
	return s.Kubernetes.Binaries == other.Kubernetes.Binaries && s.Kubernetes.CNIBinaries == other.Kubernetes.CNIBinaries
}
