package units

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Tell makes a service of somebody else's read its configuration again: it is
// reloaded, or restarted where it cannot reload. One that does not run, or does
// not exist, is left as it is and is no error.
func (s *Systemd) Tell(ctx context.Context, name string) error {
	active, err := s.active(ctx, name)
	if err != nil {
		return err
	}
	// A restart beyond the limit (StartLimitBurst in systemd.unit(5)) stops the
	// service and is then refused the start. What one that does not run says of
	// itself is left alone.
	if active {
		if err := s.forget(ctx, name); err != nil {
			return err
		}
	}
	return ignoreUnknown(s.job(ctx, "reload", name, func(c *dbus.Conn) jobCall { return c.ReloadOrTryRestartUnitContext }))
}

// active tells whether a unit runs.
func (s *Systemd) active(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return false, err
	}
	state, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
	if err != nil {
		return false, ignoreUnknown(fmt.Errorf("ask whether %q runs: %w", name, err))
	}
	return state.Value.Value() == "active", nil
}
