package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// System is the running host.
type System struct {
	// Root holds /etc and nodeagent's own files.
	Root layout.Root
	// Reload makes systemd-resolved read its configuration again. A resolved
	// that does not run is no error.
	Reload func(context.Context) error
}

func (s *System) path(elem ...string) string {
	return filepath.Join(append([]string{string(s.Root) + "/"}, elem...)...)
}

func (s *System) hostnamePath() string { return s.path("etc/hostname") }
func (s *System) hostsPath() string    { return s.path("etc/hosts") }
func (s *System) resolvPath() string   { return s.path("etc/resolv.conf") }
func (s *System) dropInPath() string {
	return s.path("etc/systemd/resolved.conf.d/nodeagent.conf")
}

// reloadPath is the file that says that resolved is to be told: it is there
// from before the drop-in changes until resolved has heard.
func (s *System) reloadPath() string { return filepath.Join(folder(s.Root), "reload-resolved") }

// Files are the files whose changes Observe would see.
func (s *System) Files() []string {
	return []string{s.hostnamePath(), s.hostsPath(), s.resolvPath(), s.dropInPath()}
}

// Observe returns the names as they are. It writes nothing. What cannot be read
// is returned as wanted, since it cannot be compared, with an error that says so.
func Observe(_ context.Context, s *System, want State) (State, error) {
	have := State{}
	var failed []error
	note := func(err error) bool {
		if err != nil {
			failed = append(failed, err)
		}
		return err == nil
	}
	static, err := readText(s.hostnamePath())
	if !note(err) {
		have.Static = want.Static
	} else if static != nil {
		have.Static = staticName(*static)
	}
	if have.Running, err = runningName(); !note(err) {
		have.Running = want.Running
	}
	note(s.observeHosts(&have, want))
	note(s.observeResolvers(&have, want))
	have.KeptName, err = loadOriginal(s.Root, originalName)
	note(err)
	have.KeptResolv, err = loadOriginal(s.Root, originalResolv)
	note(err)
	return have, errors.Join(failed...)
}

func (s *System) observeHosts(have *State, want State) error {
	content, err := readText(s.hostsPath())
	if err != nil {
		have.Block = want.Block
		return err
	}
	if content == nil {
		return nil
	}
	f, err := parseHosts(*content)
	if err != nil {
		have.Broken = fmt.Sprintf("%s: %v", s.hostsPath(), err)
		return nil
	}
	if f.begin != "" {
		have.Block = &f.block
	}
	have.Foreign = f.foreign()
	return nil
}

func (s *System) observeResolvers(have *State, want State) error {
	var err error
	if have.Resolved, err = s.usesResolved(); err != nil {
		have.Resolv, have.DropIn = want.Resolv, want.DropIn
		return err
	}
	if !have.Resolved {
		if have.Resolv, err = readText(s.resolvPath()); err != nil {
			have.Resolv = want.Resolv
			return err
		}
		have.Ours = have.Resolv != nil && strings.HasPrefix(*have.Resolv, header)
	}
	if have.DropIn, err = readText(s.dropInPath()); err != nil {
		have.DropIn = want.DropIn
		return err
	}
	if _, err = os.Lstat(s.reloadPath()); err == nil {
		have.Reload = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look whether systemd-resolved is to be told: %w", err)
	}
	return nil
}

// resolvedFiles are what /etc/resolv.conf is a link to where systemd-resolved
// answers (systemd-resolved.service(8), /etc/resolv.conf).
var resolvedFiles = []string{
	"/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf",
	"/usr/lib/systemd/resolv.conf", "/lib/systemd/resolv.conf",
}

// usesResolved tells whether /etc/resolv.conf is a link to resolved's. Whether
// that file is there does not matter: at boot resolved may come later.
func (s *System) usesResolved() (bool, error) {
	target, err := os.Readlink(s.resolvPath())
	if errors.Is(err, fs.ErrNotExist) || isNoLink(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read link %q: %w", s.resolvPath(), err)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join("/etc", target)
	}
	target = strings.Replace(filepath.Clean(target), "/var/run/", "/run/", 1)
	for _, file := range resolvedFiles {
		if target == file {
			return true, nil
		}
	}
	return false, nil
}

// readText reads a file; nil where there is none.
func readText(path string) (*string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read names: %w", err)
	}
	text := string(content)
	return &text, nil
}

// staticName is the name in a file as hostname(5) has it: the first line that
// is neither empty nor a comment.
func staticName(content string) string {
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}
