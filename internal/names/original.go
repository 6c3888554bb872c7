package names

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Original is a file as somebody else had it.
type Original struct {
	// Exists is false where there was none.
	Exists bool `json:"exists"`
	// Link is where it pointed to, where it was a symbolic link.
	Link string `json:"link,omitempty"`
	// Content is the file's, where it was none.
	Content []byte `json:"content,omitempty"`
}

// name is the host name in an original of /etc/hostname.
func (o Original) name() string { return staticName(string(o.Content)) }

// shown is the original of resolv.conf for a plan; ours is what takes its place
// where none is kept.
func (o *Original) shown(ours string) string {
	switch {
	case o == nil:
		return strings.TrimPrefix(ours, header)
	case o.Link != "":
		return "link to " + o.Link
	}
	return string(o.Content)
}

// The originals that may be kept.
const (
	originalName   = "hostname"
	originalResolv = "resolv.conf"
)

// folder is where originals lie.
func folder(root layout.Root) string { return filepath.Join(root.State(), "names") }

func originalPath(root layout.Root, which string) string {
	return filepath.Join(folder(root), which+".original.json")
}

// loadOriginal returns a kept original, nil where none is kept.
func loadOriginal(root layout.Root, which string) (*Original, error) {
	path := originalPath(root, which)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the original of %s: %w", which, err)
	}
	var o Original
	if err := json.Unmarshal(content, &o); err != nil {
		return nil, fmt.Errorf("read the original of %s %q: %w; move the file aside to go on without it", which, path, err)
	}
	return &o, nil
}

// keep writes down the file as it is, unless an original is kept already: what
// is there now may be nodeagent's own.
func (s *System) keep(which, path string) error {
	kept, err := loadOriginal(s.Root, which)
	if err != nil || kept != nil {
		return err
	}
	o, err := readOriginal(path, which == originalResolv)
	if err != nil {
		return fmt.Errorf("keep the original of %q: %w", path, err)
	}
	content, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("keep the original of %q: %w", path, err)
	}
	if err := atomicfile.MkdirAll(folder(s.Root), 0o700); err != nil {
		return fmt.Errorf("keep the original of %q: %w", path, err)
	}
	return atomicfile.Write(originalPath(s.Root, which), append(content, '\n'), 0o600)
}

// readOriginal reads a file; its link is what counts where links are replaced.
func readOriginal(path string, link bool) (Original, error) {
	if link {
		if target, err := os.Readlink(path); err == nil {
			return Original{Exists: true, Link: target}, nil
		}
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Original{}, nil
	}
	return Original{Exists: err == nil, Content: content}, err
}

func (s *System) forget(which string) error {
	if err := atomicfile.Remove(originalPath(s.Root, which)); err != nil {
		return fmt.Errorf("forget the original of %s: %w", which, err)
	}
	return nil
}
