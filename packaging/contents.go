package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// Where things lie in the package.
const (
	docDir  = "/usr/share/doc/nodeagent"
	unitDir = "/usr/lib/systemd/system"
	binDir  = "/usr/bin"
)

// file is a file of the package.
type file struct {
	path string
	mode fs.FileMode
	data []byte
}

// contents collects the files of a package; the first error ends it.
type contents struct {
	options
	ctx   context.Context
	files []file
	err   error
}

func (c *contents) add(path string, mode fs.FileMode, data []byte, err error) {
	if c.err = first(c.err, err); c.err == nil {
		c.files = append(c.files, file{path, mode, data})
	}
}

// addGzip adds the data compressed, as Debian has its documentation: without
// name and time, so that the same data give the same bytes.
func (c *contents) addGzip(path string, data []byte, err error) {
	var b bytes.Buffer
	if err == nil {
		w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
		_, err = w.Write(data)
		err = first(err, w.Close())
	}
	c.add(path+".gz", 0o644, b.Bytes(), err)
}

// addTree adds the files below a folder of the repository whose names end so.
func (c *contents) addTree(dir, to, ending string) {
	found := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(name, ending) {
			return err
		}
		inside, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		c.add(path.Join(to, filepath.ToSlash(inside)), 0o644, data, err)
		found++
		return nil
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("no %s in %s", ending, dir)
	}
	c.err = first(c.err, err)
}

// program adds the binary with its unit and its completions.
func (c *contents) program() {
	binary, err := os.ReadFile(c.binary)
	c.add(binDir+"/nodeagent", 0o755, binary, err)
	unit, err := os.ReadFile(filepath.Join(c.root, "cmd/nodeagent/nodeagent.service"))
	if err == nil {
		unit, err = unitFor(unit, binDir)
	}
	c.add(unitDir+"/nodeagent.service", 0o644, unit, err)
	for shell, path := range map[string]string{
		"bash": "/usr/share/bash-completion/completions/nodeagent",
		"zsh":  "/usr/share/zsh/vendor-completions/_nodeagent",
		"fish": "/usr/share/fish/vendor_completions.d/nodeagent.fish",
	} {
		out, err := exec.CommandContext(c.ctx, c.native, "completion", shell).Output()
		if err != nil {
			err = fmt.Errorf("%s completion %s: %w", c.native, shell, err)
		}
		c.add(path, 0o644, out, err)
	}
}

// unitFor is the unit of "make install" for a program in another folder.
func unitFor(unit []byte, dir string) ([]byte, error) {
	const from = "ExecStart=/usr/local/bin/nodeagent "
	if bytes.Count(unit, []byte(from)) != 1 || bytes.Count(unit, []byte("/usr/local/")) != 1 {
		return nil, fmt.Errorf("the unit has not exactly one line %q, and nothing else in /usr/local", from)
	}
	return bytes.Replace(unit, []byte(from), []byte("ExecStart="+dir+"/nodeagent "), 1), nil
}

// manual adds the man pages, each in the section that its name ends with.
func (c *contents) manual() {
	if c.man == "" {
		return
	}
	pages, err := filepath.Glob(filepath.Join(c.man, "*.[1-8]"))
	if err == nil && len(pages) == 0 {
		err = fmt.Errorf("no man page in %s", c.man)
	}
	c.err = first(c.err, err)
	for _, page := range pages {
		data, err := os.ReadFile(page)
		section := strings.TrimPrefix(filepath.Ext(page), ".")
		c.addGzip("/usr/share/man/man"+section+"/"+filepath.Base(page), data, err)
	}
}

// documentation adds what to read, and what the law wants.
func (c *contents) documentation(version, maintainer string) {
	c.addTree(filepath.Join(c.root, "hosts/fleets"), docDir+"/examples/fleets", ".toml")
	c.addTree(filepath.Join(c.root, "docs"), docDir+"/docs", ".md")
	c.addTree(filepath.Join(c.root, "docs/schema"), docDir+"/docs/schema", ".json")
	for _, name := range []string{"README.md", "SECURITY.md"} {
		data, err := os.ReadFile(filepath.Join(c.root, name))
		c.add(docDir+"/"+name, 0o644, data, err)
	}
	changelog, err := os.ReadFile(filepath.Join(c.root, "CHANGELOG.md"))
	c.addGzip(docDir+"/changelog", changelog, err)
	notes, err := readNotes(c.options)
	c.addGzip(docDir+"/changelog.Debian", []byte(debianChangelog(notes, version, maintainer, c.epoch.Time)), err)
	c.copyright()
	overrides, err := os.ReadFile("debian/overrides")
	c.add("/usr/share/lintian/overrides/nodeagent", 0o644, overrides, err)
}

// copyright adds nodeagent's own licence, those of what it is linked with, and
// the list of the latter for machines.
func (c *contents) copyright() {
	text, err := os.ReadFile("debian/copyright")
	c.add(docDir+"/copyright", 0o644, text, err)
	var list bytes.Buffer
	err = printNotices(c.ctx, c.options, &list)
	c.addGzip(docDir+"/third-party-notices", list.Bytes(), err)
	bill, err := sbom(c.ctx, c.options)
	c.addGzip(docDir+"/sbom.cdx.json", bill, err)
}

// first is the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
