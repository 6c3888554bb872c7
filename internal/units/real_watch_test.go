package units

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

func await(t *testing.T, changed <-chan struct{}, what string) {
	t.Helper()
	select {
	case _, open := <-changed:
		if !open {
			t.Fatalf("the channel was closed while waiting for %s", what)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no signal of %s", what)
	}
}

// quiet drains the channel until nothing comes for a while. There is no other
// way to see that nothing comes.
func quiet(t *testing.T, changed <-chan struct{}) (signals int) {
	t.Helper()
	for {
		select {
		case <-changed:
			signals++
		case <-time.After(400 * time.Millisecond):
			return signals
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func watch(t *testing.T, s *Systemd) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changed, err := s.Watch(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range changed { // ends when the watch has
		}
	})
	return changed
}

func TestRealWatchNoticesAKill(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	changed := watch(t, s)
	want := State{Units: []Unit{server(t, "a", 4001, "")}}
	converge(t, ctx, s, want)
	await(t, changed, "a new unit")
	quiet(t, changed)
	observe(t, ctx, s, want)
	if n := quiet(t, changed); n > 0 {
		t.Errorf("observing caused %d signals", n)
	}
	run(t, "systemctl", "start", "systemd-tmpfiles-clean.service")
	if n := quiet(t, changed); n > 0 {
		t.Errorf("a unit that is not ours caused %d signals", n)
	}
	pid := mainPID(t, ctx, s, name("a"))
	kill(t, pid)
	await(t, changed, "a killed process")
	// systemd restarts it by itself; converging at the same time does not hurt.
	converge(t, ctx, s, want)
	if mainPID(t, ctx, s, name("a")) == pid {
		t.Error("the killed process is still the main one")
	}
	run(t, "systemctl", "stop", name("a"))
	await(t, changed, "a stopped unit")
	converge(t, ctx, s, want)
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRealWatchOutlivesSystemdAndTheBus(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	want := State{Units: []Unit{server(t, "a", 4001, "")}}
	converge(t, ctx, s, want)
	changed := watch(t, s)
	for _, restart := range [][]string{{"systemctl", "daemon-reexec"}, {"systemctl", "restart", "dbus.service"}, {"systemctl", "daemon-reload"}} {
		what := strings.Join(restart, " ")
		quiet(t, changed)
		run(t, restart...)
		if restart[1] != "daemon-reload" {
			await(t, changed, what)
		}
		quiet(t, changed)
		eventually(t, "systemd after "+what, func() error {
			_, err := s.Observe(ctx, want)
			return err
		})
		kill(t, mainPID(t, ctx, s, name("a")))
		await(t, changed, "a kill after "+what)
		eventually(t, "the unit after "+what, func() error { return s.Check(ctx, want.Units[0]) })
	}
	converge(t, ctx, s, want)
}

// A minimal host has no bus: systemd's private socket serves.
func TestRealWithoutABus(t *testing.T) {
	realHost(t)
	ctx := t.Context()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
	s := newSystemd(t)
	changed := watch(t, s)
	want := State{Units: []Unit{server(t, "a", 4001, "")}}
	converge(t, ctx, s, want)
	await(t, changed, "a new unit")
	quiet(t, changed)
	kill(t, mainPID(t, ctx, s, name("a")))
	await(t, changed, "a killed process")
	eventually(t, "its restart", func() error { return s.Check(ctx, want.Units[0]) })
	quiet(t, changed)
	run(t, "systemctl", "daemon-reexec")
	await(t, changed, "a systemd that was executed anew")
	converge(t, ctx, s, State{})
}

func TestRealWatchEndsWithItsContext(t *testing.T) {
	s := realHost(t)
	before := runtime.NumGoroutine()
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		changed, err := s.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		for range changed {
		}
	}
	eventually(t, "the watches' goroutines to end", func() error {
		if now := runtime.NumGoroutine(); now > before {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}

// order notes when units start and end, to see what runs side by side.
type sequence struct{ events []string }

func (s *sequence) Begin(c plan.Change) { s.events = append(s.events, "begin "+c.Key) }
func (s *sequence) End(c plan.Change, err error) {
	s.events = append(s.events, fmt.Sprint("end ", c.Key, " ", err))
}

func TestRealUnitsThatDoNotNeedEachOtherStartTogether(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	gate := t.TempDir() + "/gate"
	a, b, c := server(t, "a", 4001, gate), server(t, "b", 4002, ""), server(t, "c", 4003, "", name("a"), name("b"))
	want := State{Units: []Unit{a, b, c}}
	// Only when b, which comes later, is ready, the gate opens that a waits for.
	go func() {
		for ctx.Err() == nil && s.Check(ctx, b) != nil {
			runtime.Gosched()
		}
		_ = os.WriteFile(gate, nil, 0o644)
	}()
	var seen sequence
	if err := s.Apply(ctx, diffNow(t, ctx, s, want), &seen); err != nil {
		t.Fatal(err)
	}
	last := seen.events[len(seen.events)-2:]
	if last[0] != "begin unit nodeagent-c.service" || last[1] != "end unit nodeagent-c.service <nil>" {
		t.Errorf("events: %q", seen.events)
	}
}

func TestRealCostOfObserving(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	var want State
	for i := range 7 {
		want.Units = append(want.Units, server(t, string(rune('a'+i)), 4001+i, ""))
	}
	converge(t, ctx, s, want)
	const rounds = 50
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start, used := time.Now(), cpu()
	for range rounds {
		observe(t, ctx, s, want)
	}
	wall, used := time.Since(start)/rounds, (cpu()-used)/rounds
	t.Logf("observing 7 units takes %v, of which %v are CPU time of this process", wall, used)
	// A converge that finds nothing to do may use 50 ms in all. Alone on a
	// machine, without the race detector, it is a tenth of that here.
	if used > 50*time.Millisecond {
		t.Error("that is too much")
	}
}
