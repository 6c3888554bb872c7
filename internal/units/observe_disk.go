package units

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// errProcessGone is what reading /proc/<pid>/… of an ending process gives.
var errProcessGone error = syscall.ESRCH

// unitSuffixes are the kinds of units that nodeagent may own.
var unitSuffixes = []string{".service", ".socket", ".mount", ".timer", ".path", ".target", ".slice"}

// observe returns what lies on disk: configuration files and unit files.
func (f folders) observe(want State) (State, error) {
	var have State
	var failed []error
	note := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	var err error
	have.Files, err = f.files(want.Files)
	note(err)
	have.Host.UnitFolder, err = f.chosen()
	note(err)
	if err == nil {
		note(f.unitFiles(&have, want))
	}
	have.Host.MissingBinaries = missingBinaries(want.Units)
	return have, errors.Join(failed...)
}

// files reads the wanted files and lists, without reading them, those below
// the components folder that are not wanted.
func (f folders) files(want []File) ([]File, error) {
	var files []File
	var failed []error
	for _, w := range want {
		file, err := readFile(w.Path)
		switch {
		case err == nil:
			file.Secret = w.Secret
			files = append(files, file)
		case !errors.Is(err, fs.ErrNotExist):
			failed = append(failed, fmt.Errorf("observe file %q: %w%s", w.Path, err, rootHint()))
		}
	}
	err := filepath.WalkDir(f.components(), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // never made, or deleted while we look
		}
		if err != nil {
			return err
		}
		if _, wanted := findFile(want, path); !wanted && !entry.IsDir() {
			files = append(files, File{Path: path, Mode: entry.Type()})
		}
		return nil
	})
	if err != nil {
		failed = append(failed, fmt.Errorf("observe configuration files: %w%s", err, rootHint()))
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, errors.Join(failed...)
}

// readFile reads a regular file; of anything else only what it is. The type is
// part of the mode, so that a link in the place of a file differs from it.
func readFile(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	file := File{Path: path, Mode: info.Mode()}
	if info.Mode().IsRegular() {
		file.Content, err = os.ReadFile(path)
	}
	return file, err
}

// unitFiles reads the unit files with our prefix in both folders.
func (f folders) unitFiles(have *State, want State) error {
	chosen := have.Host.UnitFolder
	failed := []error{f.unitFolder(have, want, chosen), f.unitFolder(have, want, f.other(chosen))}
	for _, u := range want.Units {
		for _, dir := range f.vendor() {
			path := filepath.Join(dir, u.Name)
			if _, err := os.Lstat(path); err == nil {
				have.Host.Foreign = append(have.Host.Foreign, Foreign{Unit: u.Name, Path: path})
				break // another of the folders may be a link to this one
			}
		}
	}
	for i := range have.Units {
		have.Units[i].Enabled = enabled(chosen, have.Units[i])
	}
	slices.SortFunc(have.Host.Foreign, func(a, b Foreign) int { return strings.Compare(a.Path, b.Path) })
	return errors.Join(failed...)
}

// dropIns are the files in a unit's own drop-in folders, see systemd.unit(5).
// The folders that do not exist or cannot be read have none.
func (f folders) dropIns(name string) []string {
	var paths []string
	for _, dir := range []string{f.persistent(), f.persistent() + ".control", f.runtime(), f.runtime() + ".control"} {
		folder := filepath.Join(dir, name+".d")
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".conf" {
				paths = append(paths, filepath.Join(folder, e.Name()))
			}
		}
	}
	return paths
}

func (f folders) unitFolder(have *State, want State, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("observe unit files: %w", err)
	}
	var failed []error
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || !strings.HasPrefix(name, layout.UnitPrefix) || !slices.Contains(unitSuffixes, filepath.Ext(name)) {
			continue
		}
		if err := have.addUnitFile(want, name, filepath.Join(dir, name), have.Host.UnitFolder); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// addUnitFile notes one unit file as ours, as a copy of ours in the wrong
// folder, or, if its name is wanted, as foreign.
func (s *State) addUnitFile(want State, name, path, chosen string) error {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nowhere is a foreign file
		return fmt.Errorf("observe unit file %q: %w", path, err)
	}
	if !ours(string(content)) {
		if _, wanted := want.find(name); wanted {
			masked := err == nil && len(bytes.TrimSpace(content)) == 0
			s.Host.Foreign = append(s.Host.Foreign, Foreign{Unit: name, Path: path, Masked: masked})
		}
		return nil
	}
	i := slices.IndexFunc(s.Units, func(u Unit) bool { return u.Name == name })
	if i < 0 {
		s.Units = append(s.Units, Unit{Name: name, Effect: effectOf(name)})
		i = len(s.Units) - 1
	}
	if filepath.Dir(path) == chosen {
		s.Units[i].Content, s.Units[i].Written = splitInputs(string(content))
	} else {
		s.Units[i].Copies = append(s.Units[i].Copies, path)
	}
	return nil
}

// effectOf is what stopping a unit disturbs that no spec describes any more.
func effectOf(name string) plan.Effect {
	if name == layout.Unit(layout.Etcd) {
		return plan.Quorum
	}
	return plan.Restart
}

// enabled tells whether the links for which the unit file asks are there.
func enabled(dir string, u Unit) bool {
	links := installLinks(u.Content)
	for _, link := range links {
		if _, err := os.Lstat(filepath.Join(dir, link, u.Name)); err != nil {
			return false
		}
	}
	return len(links) > 0
}

func missingBinaries(units []Unit) []string {
	var missing []string
	for _, u := range units {
		for _, path := range u.candidates() {
			if !executable(path) {
				missing = append(missing, path)
			}
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// candidates are the paths at which a unit's binary and programs may lie.
func (u Unit) candidates() []string {
	var paths []string
	if u.Binary != "" {
		paths = append(paths, u.Binary)
	}
	for _, p := range u.Programs {
		for _, folder := range p.Folders {
			paths = append(paths, filepath.Join(folder, p.Name))
		}
	}
	return paths
}

// lacks says what the unit cannot run without and has not, and what to do;
// empty when everything is there.
func (u Unit) lacks(there func(path string) bool) string {
	if u.Binary != "" && !there(u.Binary) {
		return fmt.Sprintf("no binary at %s: %s", u.Binary, u.Missing)
	}
	for _, p := range u.Programs {
		found := func(folder string) bool { return there(filepath.Join(folder, p.Name)) }
		if !slices.ContainsFunc(p.Folders, found) {
			return fmt.Sprintf("no %s in %s: %s", p.Name, strings.Join(p.Folders, ", "), p.Missing)
		}
	}
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
