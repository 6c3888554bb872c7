package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// ServiceHeader is the first line of a unit file that SetService writes. It is
// another than [Header], so that Diff leaves such units alone: they are what
// another domain of nodeagent needs on the way, not what the spec names.
const ServiceHeader = "# Made by nodeagent for this boot; it makes it anew when it is needed."

// SetService writes a unit file for the time until the next boot and starts the
// service, anew if it runs. It returns once the service is up. The content has
// no header of its own.
func (s *Systemd) SetService(ctx context.Context, name, content string) error {
	dir := s.folders.runtime()
	if err := atomicfile.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("set service %q: %w", name, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, name), []byte(ServiceHeader+"\n"+content), 0o644); err != nil {
		return fmt.Errorf("set service %q: %w", name, err)
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	return s.job(ctx, "start", name, func(c *dbus.Conn) jobCall { return c.RestartUnitContext })
}

// Service returns the unit file that SetService wrote; "" where there is none.
// It asks nobody and changes nothing.
func (s *Systemd) Service(name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(s.folders.runtime(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(content), err
}

// ClearService stops the service and removes its unit file. The file goes last:
// while it is there, [Systemd.Service] tells that there is something to clear.
func (s *Systemd) ClearService(ctx context.Context, name string) error {
	if err := ignoreUnknown(s.job(ctx, "stop", name, func(c *dbus.Conn) jobCall { return c.StopUnitContext })); err != nil {
		return err
	}
	if err := atomicfile.Remove(filepath.Join(s.folders.runtime(), name)); err != nil {
		return fmt.Errorf("clear service %q: %w", name, err)
	}
	return s.reload(ctx)
}
