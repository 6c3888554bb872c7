package units

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Systemd is a host's service manager, spoken to over D-Bus. It connects when
// it is first needed and again after the bus or systemd was restarted. Its
// methods may be called concurrently, but only one Apply at a time.
type Systemd struct {
	// Guard, if set, is asked before Apply starts or restarts a unit; an error
	// stops it from doing so. Start and Restart do not ask.
	Guard func(ctx context.Context, unit string) error
	// Turn, if set, is asked before a unit is restarted, and waits until it may
	// be; what it returns is called when the unit is ready again, or has failed.
	Turn func(ctx context.Context, unit string) (end func(), err error)

	folders folders
	log     *slog.Logger

	mu   sync.Mutex
	conn *dbus.Conn
}

// New returns the service manager of the host whose root folder is root. Under
// a root other than "/" (in tests) the unit files are those below it while the
// manager is still the machine's own.
func New(root layout.Root, log *slog.Logger) *Systemd {
	return &Systemd{folders: folders{root}, log: log}
}

// Close ends the connection, if there is one. A later call connects again.
func (s *Systemd) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// connect returns the connection for calls and jobs.
func (s *Systemd) connect(ctx context.Context) (*dbus.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		if s.conn.Connected() {
			return s.conn, nil
		}
		s.conn.Close()
		s.conn = nil
	}
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, _, err := dial(ctx)
		return conn, err
	})
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return conn, nil
}

// callTimeout is how long systemd may take to answer a call. Reading all unit
// files anew is the longest: a tenth of a second on an idle host. A systemd
// that leaves the bus in the middle of a call would else be waited for forever.
const callTimeout = time.Minute

// reload makes systemd read all unit files again.
func (s *Systemd) reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("make systemd read its unit files: %w%s", err, rootHint())
	}
	return nil
}

// setEnabled makes or removes the links that start a unit at boot. They lie
// next to the unit file: below /run where that is the folder of unit files, so
// that they, like the file itself, are gone after a reboot and nodeagent, at
// its own start, brings both back.
func (s *Systemd) setEnabled(ctx context.Context, name string, enable bool, folder string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	runtime := folder == s.folders.runtime()
	// Enabling anew is disabling first, so that a link for a target that the
	// unit file no longer names goes away.
	if _, err := conn.DisableUnitFilesContext(ctx, []string{name}, runtime); err != nil {
		return fmt.Errorf("disable %q: %w%s", name, err, rootHint())
	}
	if !enable {
		return nil
	}
	installable, _, err := conn.EnableUnitFilesContext(ctx, []string{name}, runtime, true)
	if err != nil {
		return fmt.Errorf("enable %q: %w%s", name, err, rootHint())
	}
	if !installable {
		return fmt.Errorf("enable %q: its unit file has no [Install] section", name)
	}
	return nil
}

func rootHint() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return " (run as root)"
}
