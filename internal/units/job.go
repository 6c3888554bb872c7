package units

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// jobCall is StartUnitContext, StopUnitContext or RestartUnitContext.
type jobCall func(ctx context.Context, name, mode string, result chan<- string) (int, error)

// lostCheck is how often a waiting job looks whether the connection, over
// which its result would come, still stands.
const lostCheck = 2 * time.Second

// job runs one job of systemd and waits for its result. verb is for errors.
func (s *Systemd) job(ctx context.Context, verb, name string, call func(*dbus.Conn) jobCall) error {
	if ctx.Err() != nil {
		// What allowed it may have been asked when nobody waited for an answer any more.
		return fmt.Errorf("%s %q: %w", verb, name, context.Cause(ctx))
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	result := make(chan string, 1)
	if err := queue(ctx, call(conn), name, result); err != nil {
		return fmt.Errorf("%s %q: %w%s", verb, name, err, rootHint())
	}
	alive := time.NewTicker(lostCheck)
	defer alive.Stop()
	for {
		select {
		case r := <-result:
			if r == "done" {
				return nil
			}
			return fmt.Errorf("%s %q: systemd says %q: %w", verb, name, r, s.failure(ctx, name))
		case <-ctx.Done():
			return fmt.Errorf("%s %q: no result yet: %w; see: journalctl -u %s", verb, name, context.Cause(ctx), name)
		case <-alive.C:
			if !conn.Connected() {
				return fmt.Errorf("%s %q: the connection to systemd broke before the result came", verb, name)
			}
		}
	}
}

// queue hands a job to systemd. "replace": one that waits for the same unit
// gives way to ours.
func queue(ctx context.Context, call jobCall, name string, result chan<- string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := call(ctx, name, "replace", result)
	return err
}

// failure says, as far as systemd knows, why a unit does not run.
func (s *Systemd) failure(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	hint := "see: journalctl -u " + name
	conn, err := s.connect(ctx)
	if err != nil {
		return errors.Join(errors.New(hint), err)
	}
	p, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return errors.Join(errors.New(hint), err)
	}
	return errors.New(failureText(p) + "; " + hint)
}

// failureText reads the properties of a unit that say what became of it.
func failureText(p map[string]any) string {
	text := fmt.Sprintf("it is %s (%s)", property[string](p, "ActiveState"), property[string](p, "SubState"))
	if load := property[string](p, "LoadState"); load != "loaded" {
		text += ", unit file " + load
		if e := loadError(p); e != "" {
			text += ": " + e
		}
	}
	if result := property[string](p, "Result"); result != "" && result != "success" {
		text += ", result " + result
	}
	if how := exitText(property[int32](p, "ExecMainCode"), property[int32](p, "ExecMainStatus")); how != "" {
		text += ", its process " + how
	}
	if n := property[uint32](p, "NRestarts"); n > 0 {
		text += fmt.Sprintf(", restarted %d times", n)
	}
	if status := property[string](p, "StatusText"); status != "" {
		text += fmt.Sprintf(", last status %q", status)
	}
	return text
}

// property returns one property, the zero value where a unit has it not or of
// another type.
func property[T any](p map[string]any, name string) T {
	v, _ := p[name].(T)
	return v
}

// loadError is the message of LoadError, a pair of D-Bus error name and text.
func loadError(p map[string]any) string {
	pair, _ := p["LoadError"].([]any)
	if len(pair) != 2 {
		return ""
	}
	text, _ := pair[1].(string)
	return text
}

// The values of ExecMainCode: the si_code of waitid(2).
const (
	childExited = 1
	childKilled = 2
	childDumped = 3
)

// exitText says how a process ended. Statuses from 200 on are systemd's own,
// for what failed before the program ran: see systemd.exec(5).
func exitText(code, status int32) string {
	switch code {
	case childExited:
		if name := map[int32]string{
			200: "its working directory is missing", 203: "the program cannot be executed",
			209: "its standard output cannot be set up", 216: "its group is unknown", 217: "its user is unknown",
			226: "its name spaces cannot be set up", 238: "its state directory cannot be set up",
			243: "its credentials cannot be set up",
		}[status]; name != "" {
			return fmt.Sprintf("exited with %d, which means that %s", status, name)
		}
		return fmt.Sprintf("exited with %d", status)
	case childKilled, childDumped:
		name := unix.SignalName(syscall.Signal(status))
		if name == "" {
			name = fmt.Sprintf("signal %d", status)
		}
		if code == childDumped {
			return "was killed by " + name + " and dumped core"
		}
		return "was killed by " + name
	}
	return ""
}
