package lab

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// mounted are the folders of a running host that lie on file systems of its
// own, where its root folder shows something else.
var mounted = []string{"/dev", "/proc", "/run", "/sys", "/tmp"}

// inRoot opens the host's root folder and translates a path into it. No
// operation through it can leave the folder, wherever symbolic links point.
func (h *Host) inRoot(name string) (*os.Root, string, error) {
	clean := path.Clean(name)
	if !path.IsAbs(clean) {
		return nil, "", fmt.Errorf("%s: not an absolute path", name)
	}
	for _, dir := range mounted {
		if clean == dir || strings.HasPrefix(clean, dir+"/") {
			return nil, "", fmt.Errorf("%s: %s is not part of a host's root folder; use Exec", name, dir)
		}
	}
	root, err := os.OpenRoot(h.Root())
	return root, strings.TrimPrefix(clean, "/"), err
}

// PutFile writes a file of the host, running or off, and makes its folders.
// It is replaced by a rename, so that a program being run can be replaced.
func (h *Host) PutFile(name string, content []byte, mode fs.FileMode) error {
	return h.PutReader(name, strings.NewReader(string(content)), mode)
}

// PutReader is PutFile with content from a reader.
func (h *Host) PutReader(name string, content io.Reader, mode fs.FileMode) (err error) {
	root, inside, err := h.inRoot(name)
	if err != nil {
		return fmt.Errorf("put file on host %q: %w", h.name, err)
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(inside), 0o755); err != nil {
		return fmt.Errorf("put file on host %q: %w", h.name, err)
	}
	temp := inside + ".put"
	if err := writeInRoot(root, temp, content, mode); err != nil {
		return fmt.Errorf("put file on host %q: %w", h.name, err)
	}
	if err := root.Rename(temp, inside); err != nil {
		return fmt.Errorf("put file on host %q: %w", h.name, err)
	}
	return nil
}

func writeInRoot(root *os.Root, name string, content io.Reader, mode fs.FileMode) error {
	file, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err == nil {
		err = file.Chmod(mode) // whatever the umask
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

// PutTree copies a folder of the machine, regular files and folders, into a
// folder of the host.
func (h *Host) PutTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		inside, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		return h.PutReader(path.Join(to, filepath.ToSlash(inside)), file, info.Mode().Perm())
	})
}

// GetFile reads a file of the host, running or off.
func (h *Host) GetFile(name string) ([]byte, error) {
	root, inside, err := h.inRoot(name)
	if err != nil {
		return nil, fmt.Errorf("get file of host %q: %w", h.name, err)
	}
	defer root.Close()
	content, err := root.ReadFile(inside)
	if err != nil {
		return nil, fmt.Errorf("get file of host %q: %w", h.name, err)
	}
	return content, nil
}

// Remove removes a file or a whole folder of the host, running or off.
func (h *Host) Remove(name string) error {
	root, inside, err := h.inRoot(name)
	if err != nil {
		return fmt.Errorf("remove from host %q: %w", h.name, err)
	}
	defer root.Close()
	if err := root.RemoveAll(inside); err != nil {
		return fmt.Errorf("remove from host %q: %w", h.name, err)
	}
	return nil
}
