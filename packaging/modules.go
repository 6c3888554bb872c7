package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
)

// standard is the path that stands for Go's standard library.
const standard = "std"

// module is a Go module that is linked into a binary.
type module struct {
	path, version string
	sum           string   // as in go.sum; empty for the standard library
	dirs          []string // of the packages that are linked, sorted
	root          string   // the module's own folder
	needs         []string // the paths of modules that it imports, sorted
}

// linked are the modules of a binary, by path, its own under the name "".
type linked struct {
	own     debug.Module
	info    *debug.BuildInfo
	modules map[string]*module
}

// sorted are the modules but the binary's own, by path.
func (l linked) sorted() []*module {
	var list []*module
	for _, path := range slices.Sorted(maps.Keys(l.modules)) {
		if path != l.own.Path {
			list = append(list, l.modules[path])
		}
	}
	return list
}

// linkedInto reads which modules the binary itself says it has, and asks go list
// where their packages lie. The binary must be built from the tree in root:
// otherwise what go list tells would be of other versions.
func linkedInto(ctx context.Context, binary, root string) (linked, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return linked{}, fmt.Errorf("read build information of %s: %w", binary, err)
	}
	l := linked{own: info.Main, info: info, modules: map[string]*module{
		info.Main.Path: {path: info.Main.Path, version: info.Main.Version},
		standard:       {path: standard, version: info.GoVersion},
	}}
	for _, m := range info.Deps {
		real := m
		if m.Replace != nil {
			real = m.Replace
		}
		l.modules[m.Path] = &module{path: real.Path, version: real.Version, sum: real.Sum}
	}
	packages, err := listPackages(ctx, info, root)
	if err != nil {
		return linked{}, fmt.Errorf("list packages of %s: %w", binary, err)
	}
	return l, l.locate(packages)
}

// goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	Root       string // GOROOT, for the standard library
	Standard   bool
	Imports    []string
	ImportMap  map[string]string
	Module     *struct {
		Path, Version, Dir string
		Replace            *struct{ Path, Version, Dir string }
	}
}

// owner is the path of the module that a package belongs to.
func (p goPackage) owner() string {
	if p.Module == nil {
		return standard
	}
	return p.Module.Path
}

// listPackages lists all packages of the binary's main package for the platform
// that it was built for.
func listPackages(ctx context.Context, info *debug.BuildInfo, root string) ([]goPackage, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath,Dir,Root,Standard,Imports,ImportMap,Module", info.Path)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "CGO_ENABLED":
			cmd.Env = append(cmd.Env, s.Key+"="+s.Value)
		}
	}
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, failed.Bytes())
	}
	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("go list: %w", err)
		}
		packages = append(packages, p)
	}
}

// locate notes where each module's packages lie and what they import.
func (l linked) locate(packages []goPackage) error {
	owners := map[string]string{}
	for _, p := range packages {
		owners[p.ImportPath] = p.owner()
	}
	needs := map[string]map[string]bool{}
	for _, p := range packages {
		m := l.modules[p.owner()]
		if m == nil {
			return fmt.Errorf("package %s is of module %s, which is not in the binary: it was built from another tree", p.ImportPath, p.owner())
		}
		if err := m.add(p); err != nil {
			return err
		}
		if needs[p.owner()] == nil {
			needs[p.owner()] = map[string]bool{}
		}
		for _, imported := range p.Imports {
			if real, ok := p.ImportMap[imported]; ok {
				imported = real
			}
			if owner := owners[imported]; owner != "" && owner != p.owner() {
				needs[p.owner()][owner] = true
			}
		}
	}
	for path, m := range l.modules {
		if len(m.dirs) == 0 {
			return fmt.Errorf("module %s is in the binary, and none of its packages is in the tree: it was built from another one", path)
		}
		slices.Sort(m.dirs)
		m.needs = slices.Sorted(maps.Keys(needs[path]))
	}
	return nil
}

// add notes a package of the module.
func (m *module) add(p goPackage) error {
	m.dirs = append(m.dirs, p.Dir)
	if p.Module == nil {
		// Parts of it that have licences of their own are for builds of another kind.
		m.root, m.dirs = p.Root, []string{p.Root}
		return nil
	}
	version := p.Module.Version
	m.root = p.Module.Dir
	if p.Module.Replace != nil {
		version, m.root = p.Module.Replace.Version, p.Module.Replace.Dir
	}
	if version != "" && version != m.version {
		return fmt.Errorf("module %s is %s in the tree and %s in the binary: it was built from another one", m.path, version, m.version)
	}
	return nil
}
