package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

// compression is of the package's files: every dpkg reads it, and Go's own
// writer makes the same bytes of the same data.
const compression = "gzip"

// makeDeb makes bin/nodeagent_VERSION_ARCH.deb and prints its path.
func makeDeb(ctx context.Context, o options, w io.Writer) error {
	built, err := buildinfo.ReadFile(o.binary)
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", o.binary, err)
	}
	arch := ""
	for _, s := range built.Settings {
		if s.Key == "GOARCH" {
			arch = s.Value
		}
	}
	info, err := packageInfo(o, arch)
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp("", "nodeagent-deb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	c := contents{options: o, ctx: ctx}
	c.program()
	c.manual()
	c.documentation(info.Version+"-"+info.Release, info.Maintainer)
	if c.err != nil {
		return fmt.Errorf("collect files of the package: %w", c.err)
	}
	if info.Contents, err = staged(c.files, stage, o); err != nil {
		return err
	}
	path := filepath.Join(o.out, deb.Default.ConventionalFileName(info))
	if err := writePackage(info, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = fmt.Fprintln(w, path)
	return err
}

// packageInfo is what nfpm.yaml says of the package.
func packageInfo(o options, arch string) (*nfpm.Info, error) {
	version, err := debianVersion(o.version, o.epoch.Time)
	if err != nil {
		return nil, err
	}
	config, err := os.Open("nfpm.yaml")
	if err != nil {
		return nil, err
	}
	defer config.Close()
	values := map[string]string{"ARCH": arch, "VERSION": version}
	parsed, err := nfpm.ParseWithEnvMapping(config, func(name string) string { return values[name] })
	if err != nil {
		return nil, fmt.Errorf("read nfpm.yaml: %w", err)
	}
	info := nfpm.WithDefaults(&parsed.Info)
	info.MTime = o.epoch.Time
	info.Deb.Compression = compression
	return info, nil
}

// staged writes the files to a folder and lists them for nfpm, each with its own
// mode and the one time.
func staged(list []file, stage string, o options) (files.Contents, error) {
	dir := func(path string, mode os.FileMode) *files.Content {
		return &files.Content{Destination: path, Type: files.TypeDir, FileInfo: &files.ContentFileInfo{Mode: mode, MTime: o.epoch.Time}}
	}
	all := files.Contents{dir("/etc/nodeagent", 0o755)}
	for i, f := range list {
		path := filepath.Join(stage, fmt.Sprint(i))
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return nil, err
		}
		all = append(all, &files.Content{
			Source: path, Destination: f.path,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: o.epoch.Time},
		})
	}
	return all, nil
}

// writePackage writes the package by a rename, so that no half of one lies there.
func writePackage(info *nfpm.Info, path string) error {
	if err := nfpm.Validate(info); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(path), ".building-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	err = first(deb.Default.Package(info, out), out.Chmod(0o644))
	if err = first(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}
