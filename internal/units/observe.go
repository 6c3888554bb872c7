package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
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
// It costs one D-Bus call and one more for each unit that is loaded. Units that
// are not loaded are not asked about: asking would make systemd load them, and
// that in turn would wake up Watch.
func (s *Systemd) Observe(ctx context.Context, want State) (State, error) {
	have, diskErr := s.folders.observe(want)
	live, liveErr := s.observeLoaded(ctx)
	for name, l := range live {
		have.Units = addLoaded(have.Units, name, l, have.Host)
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

// observeTimeout is how long systemd may take to say what it knows.
const observeTimeout = 30 * time.Second

func (s *Systemd) observeLoaded(ctx context.Context) (map[string]loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
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
		l, err := observeUnit(ctx, conn, status.Name)
		if err != nil {
			failed = append(failed, fmt.Errorf("observe unit %q: %w", status.Name, err))
			continue
		}
		units[status.Name] = l
	}
	return units, errors.Join(failed...)
}

func observeUnit(ctx context.Context, conn *dbus.Conn, name string) (loaded, error) {
	p, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return loaded{}, err
	}
	l := loaded{stale: property[bool](p, "NeedDaemonReload"), detail: detail(p)}
	if l.detail.MainPID != 0 {
		if l.inputs, err = processInputs(l.detail.MainPID); err != nil {
			return loaded{}, err
		}
	}
	return l, nil
}

func detail(p map[string]any) Detail {
	d := Detail{
		ActiveState: property[string](p, "ActiveState"),
		SubState:    property[string](p, "SubState"),
		Result:      property[string](p, "Result"),
		MainPID:     int(property[uint32](p, "MainPID")),
		Restarts:    int(property[uint32](p, "NRestarts")),
	}
	if us := property[uint64](p, "ActiveEnterTimestamp"); us != 0 && us <= math.MaxInt64 {
		d.Since = time.UnixMicro(int64(us))
	}
	// The largest number means that memory is not accounted for.
	if bytes := property[uint64](p, "MemoryCurrent"); bytes != math.MaxUint64 {
		d.MemoryBytes = bytes
	}
	return d
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
