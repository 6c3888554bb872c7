package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// stuck is how long one converge may take before the watchdog is no longer
// fed: longer than every component's start timeout in a row.
const stuck = 30 * time.Minute

// manager tells systemd how the service does. Without systemd (no
// NOTIFY_SOCKET) it does nothing.
type manager struct {
	log *slog.Logger
	// busySince is when the converge that runs began, in Unix nanoseconds, 0
	// when none runs.
	busySince atomic.Int64
}

func (m *manager) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		m.log.Warn("telling systemd", "state", state, "error", err)
	}
}

func (m *manager) ready() { m.notify(sd.SdNotifyReady) }

// stopping, and status with a line that `systemctl status` shows.
func (m *manager) stopping()          { m.notify(sd.SdNotifyStopping) }
func (m *manager) status(line string) { m.notify("STATUS=" + line) }

// reloading must be followed by ready. systemd wants the monotonic clock with
// it since version 253 (sd_notify(3), RELOADING=1).
func (m *manager) reloading() {
	m.notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, monotonicMicroseconds()))
}

func (m *manager) busy() { m.busySince.Store(time.Now().UnixNano()) }
func (m *manager) idle() { m.busySince.Store(0) }

// watchdog feeds systemd's watchdog at half its interval, where the unit has
// one, unless a converge is stuck. It returns when ctx is done.
func (m *manager) watchdog(ctx context.Context) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the watchdog of the unit is not used", "error", err)
	}
	if interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		if since := m.busySince.Load(); since == 0 || time.Since(time.Unix(0, since)) < stuck {
			m.notify(sd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
