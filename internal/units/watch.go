package units

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/nodeagent/nodeagent/internal/layout"
)

const (
	systemdName   = "org.freedesktop.systemd1"
	systemdPath   = godbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface  = "org.freedesktop.systemd1.Manager"
	unitIface     = "org.freedesktop.systemd1.Unit"
	unitPathStart = "/org/freedesktop/systemd1/unit/"
	busIface      = "org.freedesktop.DBus"

	firstRetry   = 200 * time.Millisecond
	longestRetry = 30 * time.Second
)

// Watch sends on the channel it returns when the state of one of nodeagent's
// units may have changed: it started, ended, failed, appeared or went. Several
// changes while nobody receives are one. A lost connection (the bus or systemd
// was restarted) is made again and counts as a change, since some may have been
// missed. When ctx ends the channel is closed and nothing is left running.
//
// Between events it does nothing: the bus filters out the other units. Over
// systemd's private socket, which knows no filters, it drops their signals.
func (s *Systemd) Watch(ctx context.Context) (<-chan struct{}, error) {
	session, err := s.listen(ctx)
	if err != nil {
		return nil, err
	}
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		for session != nil {
			session.run(ctx, changed)
			session = s.listenAgain(ctx)
			notify(changed)
		}
	}()
	return changed, nil
}

func notify(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// listenAgain tries to connect until it succeeds or ctx ends, which gives nil.
func (s *Systemd) listenAgain(ctx context.Context) *listening {
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		session, err := s.listen(ctx)
		if err == nil {
			return session
		}
		s.log.Warn("unit changes go unnoticed", "error", err, "retry", pause)
	}
}

// listening is one connection over which signals come.
type listening struct {
	conn    *godbus.Conn
	direct  bool // over the private socket
	signals chan *godbus.Signal
	watched map[godbus.ObjectPath]bool
}

// listen connects and subscribes to signals. The connection is one of its own:
// what comes over it needs other filters than the results of jobs.
func (s *Systemd) listen(ctx context.Context) (*listening, error) {
	conn, direct, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch units: %w", err)
	}
	l := &listening{
		conn: conn, direct: direct,
		signals: make(chan *godbus.Signal, 64), watched: map[godbus.ObjectPath]bool{},
	}
	conn.Signal(l.signals)
	if err := l.subscribe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("watch units: %w", err), conn.Close())
	}
	return l, nil
}

func (l *listening) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if !l.direct {
		for _, rule := range [][]godbus.MatchOption{
			{godbus.WithMatchSender(systemdName), godbus.WithMatchInterface(managerIface), godbus.WithMatchMember("UnitNew")},
			{godbus.WithMatchSender(systemdName), godbus.WithMatchInterface(managerIface), godbus.WithMatchMember("UnitRemoved")},
			{godbus.WithMatchSender(busIface), godbus.WithMatchInterface(busIface), godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, systemdName)},
		} {
			if err := l.conn.AddMatchSignalContext(ctx, rule...); err != nil {
				return err
			}
		}
	}
	if err := l.askForSignals(ctx); err != nil {
		return err
	}
	return l.watchLoaded(ctx)
}

// askForSignals makes systemd send signals at all. It forgets the request when
// it is executed anew.
func (l *listening) askForSignals(ctx context.Context) error {
	err := l.conn.Object(systemdName, systemdPath).CallWithContext(ctx, managerIface+".Subscribe", 0).Err
	var e godbus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.AlreadySubscribed" {
		return nil
	}
	return err
}

// watchLoaded asks for the signals of our units that are loaded now; those of
// later ones are asked for when they appear.
func (l *listening) watchLoaded(ctx context.Context) error {
	var list [][]any
	err := l.conn.Object(systemdName, systemdPath).CallWithContext(ctx, managerIface+".ListUnitsByPatterns", 0,
		[]string{}, []string{layout.UnitPrefix + "*"}).Store(&list)
	if err != nil {
		return err
	}
	for _, unit := range list {
		// name, description, load, active and sub state, followed, path, …
		if path, ok := unit[6].(godbus.ObjectPath); ok {
			if err := l.watchUnit(ctx, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *listening) watchUnit(ctx context.Context, path godbus.ObjectPath) error {
	if l.direct || l.watched[path] {
		return nil
	}
	l.watched[path] = true
	return l.conn.AddMatchSignalContext(ctx,
		godbus.WithMatchSender(systemdName), godbus.WithMatchObjectPath(path),
		godbus.WithMatchInterface("org.freedesktop.DBus.Properties"), godbus.WithMatchMember("PropertiesChanged"),
		godbus.WithMatchArg(0, unitIface))
}

// run hands on signals until the connection or ctx ends.
func (l *listening) run(ctx context.Context, changed chan<- struct{}) {
	defer l.conn.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case signal, open := <-l.signals:
			if !open {
				return
			}
			related, err := l.follow(ctx, signal)
			if err != nil {
				return // the connection is broken: start over
			}
			if related {
				notify(changed)
			}
		}
	}
}

// follow does what a signal asks for, so that those that come after it are
// heard, and tells whether it is about one of our units or all of them.
func (l *listening) follow(ctx context.Context, signal *godbus.Signal) (related bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	switch what, path := classify(signal); what {
	case unitAppeared:
		return true, l.watchUnit(ctx, path)
	case systemdReturned:
		return true, l.askForSignals(ctx)
	default:
		return what == unitChanged, nil
	}
}

// event is what a signal means to us.
type event int

const (
	unrelated event = iota
	unitAppeared
	unitChanged
	systemdReturned
)

// ourPaths begins the object paths of all units with our prefix.
var ourPaths = unitPathStart + dbus.PathBusEscape(layout.UnitPrefix)

// classify tells what a signal is about, and of which unit.
func classify(signal *godbus.Signal) (event, godbus.ObjectPath) {
	switch signal.Name {
	case "org.freedesktop.DBus.Properties.PropertiesChanged":
		var iface string
		if len(signal.Body) > 0 {
			iface, _ = signal.Body[0].(string)
		}
		if iface == unitIface && strings.HasPrefix(string(signal.Path), ourPaths) {
			return unitChanged, signal.Path
		}
	case managerIface + ".UnitNew", managerIface + ".UnitRemoved":
		if len(signal.Body) < 2 {
			break
		}
		path, _ := signal.Body[1].(godbus.ObjectPath)
		if !strings.HasPrefix(string(path), ourPaths) {
			break
		}
		if signal.Name == managerIface+".UnitNew" {
			return unitAppeared, path
		}
		return unitChanged, path
	case busIface + ".NameOwnerChanged":
		if len(signal.Body) == 3 && signal.Body[0] == systemdName && signal.Body[2] != "" {
			return systemdReturned, ""
		}
	}
	return unrelated, ""
}
