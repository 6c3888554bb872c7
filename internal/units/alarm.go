package units

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Alarm is a command that systemd runs at a moment, and at the next boot if
// that comes first, whatever becomes of the process that set it. Its units are
// of its own name, without the prefix of those that Diff compares.
type Alarm struct {
	Name    string // "nodeagent.rollback"
	About   string
	Command string // of ExecStart
}

func (a Alarm) service() string { return a.Name + ".service" }
func (a Alarm) timer() string   { return a.Name + ".timer" }

// The service starts before nodeagent does at a boot, and before what waits for
// the network. It is tried again until it succeeds: links may appear late.
const alarmService = Header + `
[Unit]
Description=%s
After=systemd-modules-load.service systemd-sysctl.service local-fs.target dbus.service
Before=nodeagent.service network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=%s
Restart=on-failure
RestartSec=1
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
`

const alarmTimer = Header + `
[Unit]
Description=%s

[Timer]
OnActiveSec=%s
AccuracySec=10ms
`

// SetAlarm sets the alarm, or sets it anew, to go off in the given time.
func (s *Systemd) SetAlarm(ctx context.Context, a Alarm, in time.Duration) error {
	dir, err := s.folders.chosen()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		a.service(): fmt.Sprintf(alarmService, a.About, a.Command),
		a.timer():   fmt.Sprintf(alarmTimer, a.About, fmt.Sprintf("%dms", in.Milliseconds()+1)),
	} {
		if err := atomicfile.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("set alarm %q: %w", a.Name, err)
		}
		if err := atomicfile.Write(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("set alarm %q: %w", a.Name, err)
		}
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	if err := s.setEnabled(ctx, a.service(), true, dir); err != nil {
		return err
	}
	return s.job(ctx, "start", a.timer(), func(c *dbus.Conn) jobCall { return c.RestartUnitContext })
}

// ClearAlarm removes the alarm. The command itself may call it.
func (s *Systemd) ClearAlarm(ctx context.Context, a Alarm) error {
	dir, err := s.folders.chosen()
	if err != nil {
		return err
	}
	failed := []error{
		ignoreUnknown(s.job(ctx, "stop", a.timer(), func(c *dbus.Conn) jobCall { return c.StopUnitContext })),
		s.setEnabled(ctx, a.service(), false, dir),
	}
	for _, name := range []string{a.service(), a.timer()} {
		failed = append(failed, atomicfile.Remove(filepath.Join(dir, name)))
	}
	return errors.Join(append(failed, s.reload(ctx))...)
}
