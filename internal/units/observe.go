package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Observe returns the files and units that are there: those that want names
// and all others that are nodeagent's. It writes nothing.
//
// An error names the part that could not be seen; the State then holds the
// rest. Without systemd the units' files are seen but not whether they run.
//
// It costs one D-Bus call and two small ones for each unit that is loaded. Units
// that are not loaded are not asked about: asking would make systemd load them,
// and that in turn would wake up Watch.
func (s *Systemd) Observe(ctx context.Context, want State) (State, error) {
	return s.observe(ctx, want, false)
}

// ObserveFigures is Observe with the figures of each unit's Detail, that people
// want to see and no plan needs: up to three calls more for each.
func (s *Systemd) ObserveFigures(ctx context.Context, want State) (State, error) {
	return s.observe(ctx, want, true)
}

func (s *Systemd) observe(ctx context.Context, want State, figures bool) (State, error) {
	have, diskErr := s.folders.observe(want)
	live, liveErr := s.observeLoaded(ctx, figures)
	for name, l := range live {
		have.Units = addLoaded(have.Units, name, l, have.Host)
	}
	for i := range have.Units {
		have.Units[i].Detail.DropIns = s.folders.dropIns(have.Units[i].Name)
	}
	have.Units = order(have.Units, want.Units)
	return have, errors.Join(diskErr, liveErr)
}

// loaded is what systemd and /proc say of a unit.
type loaded struct {
	inputs string
	stale  bool
	detail Detail
}

// addLoaded joins what is known of a unit from disk with what systemd says.
func addLoaded(units []Unit, name string, l loaded, host Host) []Unit {
	i := slices.IndexFunc(units, func(u Unit) bool { return u.Name == name })
	if i < 0 {
		// Its unit file is gone or is not ours. What runs is ours only if it
		// was started from a unit file of ours.
		if _, foreign := host.foreign(name); foreign || l.inputs == "" {
			return units
		}
		units = append(units, Unit{Name: name, Effect: effectOf(name)})
		i = len(units) - 1
	}
	u := &units[i]
	u.Active = l.detail.ActiveState == "active" || l.detail.ActiveState == "reloading"
	u.Inputs, u.Stale, u.Detail = l.inputs, l.stale, l.detail
	return units
}

// order puts the wanted units first, as wanted, then the others by name.
func order(units, want []Unit) []Unit {
	rank := func(u Unit) int {
		i := slices.IndexFunc(want, func(w Unit) bool { return w.Name == u.Name })
		if i < 0 {
			return len(want)
		}
		return i
	}
	slices.SortFunc(units, func(a, b Unit) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	return units
}

// observeTimeout is how long systemd may take to say what it knows, with all
// attempts.
const (
	observeTimeout  = 30 * time.Second
	observeAttempts = 3
	observePause    = 200 * time.Millisecond
)

// observeLoaded asks again when it fails: a systemd, or a bus, that is executed
// anew in the middle of the questions cuts the connection and is back at once.
func (s *Systemd) observeLoaded(ctx context.Context, figures bool) (map[string]loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		units, err := s.askLoaded(ctx, figures)
		if err == nil || attempt == observeAttempts {
			return units, err
		}
		select {
		case <-ctx.Done():
			return units, err
		case <-time.After(observePause):
		}
	}
}

func (s *Systemd) askLoaded(ctx context.Context, figures bool) (map[string]loaded, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	list, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{layout.UnitPrefix + "*"})
	if err != nil {
		return nil, fmt.Errorf("list units: %w", err)
	}
	units := map[string]loaded{}
	var failed []error
	for _, status := range list {
		// Without a unit file there is an entry as long as another unit
		// mentions it.
		if status.LoadState == "not-found" && status.ActiveState == "inactive" {
			continue
		}
		l, err := observeUnit(ctx, conn, status, figures)
		if err != nil {
			failed = append(failed, fmt.Errorf("observe unit %q: %w", status.Name, err))
			continue
		}
		units[status.Name] = l
	}
	return units, errors.Join(failed...)
}

// observeUnit asks for the few properties that count one by one. There is a
// call that gives all of them, but a service has more than three hundred:
// decoding those takes many times as long as these calls.
func observeUnit(ctx context.Context, conn *dbus.Conn, status dbus.UnitStatus, figures bool) (loaded, error) {
	r := reader{ctx: ctx, conn: conn, unit: status.Name}
	l := loaded{stale: read[bool](&r, "Unit", "NeedDaemonReload")}
	l.detail = Detail{ActiveState: status.ActiveState, SubState: status.SubState}
	service := filepath.Ext(status.Name) == ".service"
	if service {
		l.detail.MainPID = int(read[uint32](&r, "Service", "MainPID"))
		if status.ActiveState != "active" {
			l.detail.Result = read[string](&r, "Service", "Result")
		}
	}
	if figures {
		readFigures(&r, &l.detail, service)
	}
	if r.err != nil || l.detail.MainPID == 0 {
		return l, r.err
	}
	var err error
	l.inputs, err = processInputs(l.detail.MainPID)
	return l, err
}

func readFigures(r *reader, d *Detail, service bool) {
	if us := read[uint64](r, "Unit", "ActiveEnterTimestamp"); us != 0 && us <= math.MaxInt64 {
		d.Since = time.UnixMicro(int64(us))
	}
	if !service {
		return
	}
	d.Restarts = int(read[uint32](r, "Service", "NRestarts"))
	// The largest number means that memory is not accounted for.
	if bytes := read[uint64](r, "Service", "MemoryCurrent"); bytes != math.MaxUint64 {
		d.MemoryBytes = bytes
	}
}

// reader reads properties of one unit until one of them cannot be read.
type reader struct {
	ctx  context.Context
	conn *dbus.Conn
	unit string
	err  error
}

// read returns one property of the unit's interface of this name, the zero
// value if it, or one before it, cannot be read.
func read[T any](r *reader, iface, name string) (value T) {
	if r.err != nil {
		return value
	}
	p, err := r.conn.GetUnitTypePropertyContext(r.ctx, r.unit, iface, name)
	if err != nil {
		r.err = fmt.Errorf("read property %s: %w", name, err)
		return value
	}
	value, ok := p.Value.Value().(T)
	if !ok {
		r.err = fmt.Errorf("read property %s: it is a %T, not a %T", name, p.Value.Value(), value)
	}
	return value
}

// processInputs reads the digest out of the environment with which a process
// was started; empty when it has none, or is gone.
func processInputs(pid int) (string, error) {
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errProcessGone) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the environment of process %d: %w%s", pid, err, rootHint())
	}
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if digest, ok := bytes.CutPrefix(variable, []byte(InputsVariable+"=")); ok {
			return string(digest), nil
		}
	}
	return "", nil
}
