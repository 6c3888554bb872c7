package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Apply carries out changes that Diff made, in their order, and goes on past
// those that fail. An original is on disk before the file is replaced, and is
// forgotten only when it is back.
func Apply(ctx context.Context, s *System, changes []plan.Change, rep plan.Reporter) error {
	return plan.Each(ctx, changes, rep, s.apply)
}

func (s *System) apply(ctx context.Context, c plan.Change) error {
	switch p := c.Payload.(type) {
	case writeName:
		if err := s.keep(originalName, s.hostnamePath()); err != nil {
			return err
		}
		return s.write(s.hostnamePath(), p.name+"\n")
	case setRunning:
		return setRunningName(p.name)
	case revertName:
		return s.revertName(p.original)
	case writeResolv:
		return s.writeResolv(p.content)
	case revertResolv:
		return s.revertResolv(p.original)
	case forgetResolv:
		return s.forget(originalResolv)
	case writeDropIn:
		return s.changeDropIn(ctx, func() error {
			if err := atomicfile.MkdirAll(filepath.Dir(s.dropInPath()), 0o755); err != nil {
				return explain(s.dropInPath(), err)
			}
			return s.write(s.dropInPath(), p.content)
		})
	case removeDropIn:
		return s.changeDropIn(ctx, func() error { return explain(s.dropInPath(), atomicfile.Remove(s.dropInPath())) })
	case reloadResolve:
		return s.changeDropIn(ctx, func() error { return nil })
	case writeBlock:
		return s.editHosts(func(f hostsFile, exists bool) (string, bool) { return f.with(p.block, exists), true })
	case removeBlock:
		return s.editHosts(func(f hostsFile, _ bool) (string, bool) { return f.without() })
	case blocked:
		return errors.New(p.reason)
	}
	return fmt.Errorf("apply %s: not a change of this domain", c)
}

// write replaces a file, or what a link that stands for it leads to.
func (s *System) write(path, content string) error {
	target, err := behind(path)
	if err != nil {
		return err
	}
	return explain(path, atomicfile.Write(target, []byte(content), 0o644))
}

// behind is the file that a path leads to: the path itself where it is no link,
// or the missing file that a link points to.
func behind(path string) (string, error) {
	const maxLinks = 40 // as for the kernel, path_resolution(7)
	for range maxLinks {
		target, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || isNoLink(err) {
			return path, nil
		}
		if err != nil {
			return "", fmt.Errorf("follow link %q: %w", path, err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", fmt.Errorf("follow link %q: it leads through more than %d links", path, maxLinks)
}

// isNoLink tells readlink(2)'s error of a file that is no link.
func isNoLink(err error) bool { return errors.Is(err, syscall.EINVAL) }

// explain adds what to do about a file that cannot be replaced.
func explain(path string, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "; it lies on a read-only file system, as on NixOS or an image: set the names in that system's own configuration and leave them out of the spec, or make the folder writable"
	case errors.Is(err, syscall.EBUSY):
		hint = "; the file is a mount of its own, as in a container: set it outside, or unmount it"
	case errors.Is(err, fs.ErrPermission):
		hint = "; this needs root, and a file without the immutable attribute (lsattr)"
	}
	return fmt.Errorf("replace %q: %w%s", path, err, hint)
}

func (s *System) revertName(o Original) error {
	if err := s.put(s.hostnamePath(), o); err != nil {
		return err
	}
	if name := o.name(); name != "" {
		if err := setRunningName(name); err != nil {
			return err
		}
	}
	return s.forget(originalName)
}

// writeResolv makes /etc/resolv.conf a file of ours. A link that is there is
// replaced, not followed: what it leads to is another program's to write.
func (s *System) writeResolv(content string) error {
	if is, err := readText(s.resolvPath()); err == nil && is != nil && strings.HasPrefix(*is, header) {
		// Ours from before: nothing to keep, also where what was kept is lost.
	} else if err := s.keep(originalResolv, s.resolvPath()); err != nil {
		return err
	}
	return explain(s.resolvPath(), atomicfile.Write(s.resolvPath(), []byte(content), 0o644))
}

func (s *System) revertResolv(o *Original) error {
	if o == nil {
		// None is kept: rather servers that once were right than none.
		is, err := readText(s.resolvPath())
		if err != nil || is == nil {
			return err
		}
		return explain(s.resolvPath(), atomicfile.Write(s.resolvPath(), []byte(strings.TrimPrefix(*is, header)), 0o644))
	}
	if err := s.put(s.resolvPath(), *o); err != nil {
		return err
	}
	return s.forget(originalResolv)
}

// put makes a file be as it was.
func (s *System) put(path string, o Original) error {
	switch {
	case !o.Exists:
		return explain(path, atomicfile.Remove(path))
	case o.Link != "":
		return explain(path, atomicfile.Symlink(o.Link, path))
	}
	return s.write(path, string(o.Content))
}

// changeDropIn changes the drop-in and tells resolved, which is remembered
// until it has heard.
func (s *System) changeDropIn(ctx context.Context, edit func() error) error {
	if err := atomicfile.MkdirAll(folder(s.Root), 0o700); err != nil {
		return fmt.Errorf("note that systemd-resolved is to be told: %w", err)
	}
	if err := atomicfile.Write(s.reloadPath(), nil, 0o600); err != nil {
		return fmt.Errorf("note that systemd-resolved is to be told: %w", err)
	}
	if err := edit(); err != nil {
		return err
	}
	if err := s.Reload(ctx); err != nil {
		return fmt.Errorf("make systemd-resolved read its configuration: %w", err)
	}
	return atomicfile.Remove(s.reloadPath())
}

// editHosts changes the block of /etc/hosts as the file is now, not as it was
// when it was observed: what others wrote meanwhile stays.
func (s *System) editHosts(edit func(f hostsFile, exists bool) (content string, keep bool)) error {
	path, err := behind(s.hostsPath())
	if err != nil {
		return err
	}
	is, err := readText(path)
	if err != nil {
		return err
	}
	text := ""
	if is != nil {
		text = *is
	}
	f, err := parseHosts(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	content, keep := edit(f, is != nil)
	if !keep {
		return explain(path, atomicfile.Remove(path))
	}
	return explain(path, atomicfile.Write(path, []byte(content), 0o644))
}
