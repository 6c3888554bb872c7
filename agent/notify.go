package agent

import (
	"context"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// stuckAfter is how long one converge may take before the watchdog is no longer
// fed: longer than every component's start timeout in a row.
const stuckAfter = 30 * time.Minute

// manager tells systemd how the service does. Without systemd (no
// NOTIFY_SOCKET) it does nothing.
type manager struct{ log *slog.Logger }

func (m *manager) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		m.log.Warn("telling systemd", "state", state, "error", err)
	}
}

func (m *manager) ready() { m.notify(sd.SdNotifyReady) }

// stopping, and status with a line that `systemctl status` shows.
func (m *manager) stopping()          { m.notify(sd.SdNotifyStopping) }
func (m *manager) status(line string) { m.notify("STATUS=" + line) }

// FeedWatchdog feeds the watchdog of the unit that this process is the service
// of, if it has one, as long as nothing is stuck. It returns when ctx is done.
func FeedWatchdog(ctx context.Context, log *slog.Logger, stuck func(now time.Time) bool) {
	(&manager{log: log}).watchdog(ctx, stuck)
}

// watchdog feeds systemd's watchdog at half its interval, where the unit has
// one, unless a converge is stuck. It returns when ctx is done.
func (m *manager) watchdog(ctx context.Context, stuck func(now time.Time) bool) {
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
		if !stuck(time.Now()) {
			m.notify(sd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
