package units

import (
	"context"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Tell makes a service of somebody else's read its configuration again: it is
// reloaded, or restarted where it cannot reload. One that does not run, or does
// not exist, is left as it is and is no error.
func (s *Systemd) Tell(ctx context.Context, name string) error {
	return ignoreUnknown(s.job(ctx, "reload", name, func(c *dbus.Conn) jobCall { return c.ReloadOrTryRestartUnitContext }))
}
