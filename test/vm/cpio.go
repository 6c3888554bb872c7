package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
)

// entry is a file of an initial root file system.
type entry struct {
	mode    uint32 // of stat(2): type and permissions
	content []byte // of a file, or the target of a symbolic link
	from    string // the file to copy the content from, instead
	device  [2]uint32
}

// The types in an entry's mode.
const (
	typeFolder = 0o040000
	typeChar   = 0o020000
	typeFile   = 0o100000
	typeLink   = 0o120000
)

// Image is an initial root file system in the making: its files by their
// absolute paths. Folders above them are made as needed.
type Image map[string]entry

// Copy adds a file of this machine under a path of the image.
func (i Image) Copy(to, from string, perm fs.FileMode) {
	i[to] = entry{mode: typeFile | uint32(perm.Perm()), from: from}
}

// Write adds a file with the content.
func (i Image) Write(to string, content []byte, perm fs.FileMode) {
	i[to] = entry{mode: typeFile | uint32(perm.Perm()), content: content}
}

// Link adds a symbolic link.
func (i Image) Link(to, target string) {
	i[to] = entry{mode: typeLink | 0o777, content: []byte(target)}
}

// Folder adds an empty folder.
func (i Image) Folder(to string) {
	i[to] = entry{mode: typeFolder | 0o755}
}

// Save writes the image as a cpio archive of the format "newc" (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed: an
// emulated processor is slow at unpacking.
func (i Image) Save(name string) error {
	i.addFolders()
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := &cpio{w: bufio.NewWriterSize(file, 1<<20)}
	for _, name := range slices.Sorted(maps.Keys(i)) {
		if err := archive.add(name[1:], i[name]); err != nil {
			return fmt.Errorf("put %s into the image: %w", name, err)
		}
	}
	if err := archive.add("TRAILER!!!", entry{}); err != nil {
		return err
	}
	if err := archive.w.Flush(); err != nil {
		return err
	}
	return file.Close()
}

// addFolders adds the folders that files lie in.
func (i Image) addFolders() {
	for _, name := range slices.Collect(maps.Keys(i)) {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if _, ok := i[dir]; !ok {
				i.Folder(dir)
			}
		}
	}
}

// cpio writes an archive.
type cpio struct {
	w      *bufio.Writer
	inode  uint32
	offset int64
}

func (c *cpio) add(name string, e entry) error {
	content, size, err := e.open()
	if err != nil {
		return err
	}
	defer content.Close()
	c.inode++
	// magic; inode, mode, uid, gid, links, mtime, size, device (2), its own
	// device (2), length of the name with its NUL, check sum (unused)
	n, err := fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, e.mode, 0, 0, 1, 0, size, 0, 0, e.device[0], e.device[1], len(name)+1, 0, name)
	c.offset += int64(n)
	if err != nil {
		return err
	}
	if err := c.pad(); err != nil {
		return err
	}
	copied, err := io.Copy(c.w, content)
	c.offset += copied
	if err != nil {
		return err
	}
	if copied != size {
		return fmt.Errorf("it changed while it was read: %d bytes, then %d", size, copied)
	}
	return c.pad()
}

// pad fills up to a multiple of four bytes.
func (c *cpio) pad() error {
	n, err := c.w.Write(make([]byte, -c.offset&3))
	c.offset += int64(n)
	return err
}

func (e entry) open() (io.ReadCloser, int64, error) {
	if e.from == "" {
		return io.NopCloser(bytes.NewReader(e.content)), int64(len(e.content)), nil
	}
	file, err := os.Open(e.from)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}
