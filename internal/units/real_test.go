package units

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// The tests named TestReal… work on the systemd that is process 1. They run in
// a lab host, where package test/lab/insystemd starts them, and change the
// host that they run on.

const (
	realVariable   = "NODEAGENT_REAL_SYSTEMD"
	helperVariable = "UNITS_TEST_HELPER"
)

// TestMain makes the test binary also the program that the tests' units run.
func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		help(mode)
	}
	os.Exit(m.Run())
}

// help is a server that answers 200 as soon as a file exists, or a program that
// ends at once.
func help(mode string) {
	if mode == "exit" {
		os.Exit(3)
	}
	address, gate, _ := strings.Cut(mode, ",")
	err := http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(gate); gate != "" && err != nil {
			http.Error(w, "still loading", http.StatusServiceUnavailable)
		}
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// realHost is the host's systemd for one test, which leaves no unit behind.
func realHost(t *testing.T) *Systemd {
	t.Helper()
	if os.Getenv(realVariable) != "1" {
		t.Skip("changes the units of the machine that it runs on: package test/lab/insystemd runs it in a lab host")
	}
	if comm, err := os.ReadFile("/proc/1/comm"); err != nil || string(comm) != "systemd\n" || os.Geteuid() != 0 {
		t.Fatalf("%s=1, but this is not root on a host whose process 1 is systemd (%q, %v)", realVariable, comm, err)
	}
	s := newSystemd(t)
	clear := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		converge(t, ctx, s, State{})
	}
	clear() // of what a killed run left
	t.Cleanup(clear)
	return s
}

func newSystemd(t *testing.T) *Systemd {
	s := New("", slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(s.Close)
	return s
}

func observe(t *testing.T, ctx context.Context, s *Systemd, want State) State {
	t.Helper()
	have, err := s.Observe(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func diffNow(t *testing.T, ctx context.Context, s *Systemd, want State) []plan.Change {
	t.Helper()
	return Diff(observe(t, ctx, s, want), want)
}

// converge applies want and checks that nothing is left to do.
func converge(t *testing.T, ctx context.Context, s *Systemd, want State) []plan.Change {
	t.Helper()
	changes := diffNow(t, ctx, s, want)
	if err := s.Apply(ctx, changes, plan.Silent{}); err != nil {
		t.Fatalf("apply %q: %v", names(changes), err)
	}
	if left := diffNow(t, ctx, s, want); len(left) > 0 {
		t.Fatalf("after applying %q this is left: %q", names(changes), names(left))
	}
	return changes
}

// server is a unit that answers on a port of the loopback interface, once the
// file gate exists; gate may be empty.
func server(t *testing.T, letter string, port int, gate string, needs ...string) Unit {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	return Unit{
		Name: name(letter), Enabled: true, Active: true, Inputs: "first", Needs: needs, Binary: self,
		Ready: &Probe{URL: "http://" + address + "/readyz", Timeout: 20 * time.Second},
		Content: Header + `
[Unit]
Description=test server ` + letter + `
[Service]
Environment=` + helperVariable + "=" + address + "," + gate + `
ExecStart=` + self + `
Restart=always
RestartSec=200ms
[Install]
WantedBy=multi-user.target
`,
	}
}

func name(letter string) string { return "nodeagent-" + letter + ".service" }

func configuration(letter, content string) File {
	return File{Path: "/var/lib/nodeagent/components/" + letter + "/config", Content: []byte(content), Mode: 0o600}
}

// snapshot is everything on disk that this domain could write, by path.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, dir := range []string{"/etc/systemd", "/run/systemd/system", "/var/lib/nodeagent"} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			seen[path] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return seen
}

func mainPID(t *testing.T, ctx context.Context, s *Systemd, unit string) int {
	t.Helper()
	u, _ := observe(t, ctx, s, State{}).find(unit)
	if u.Detail.MainPID == 0 {
		t.Fatalf("%s has no main process: %+v", unit, u.Detail)
	}
	return u.Detail.MainPID
}

// eventually polls until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("wait for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

func TestRealCreateStartReadyAndBack(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	want := State{
		Files: []File{configuration("a", "one\n"), configuration("b", "two\n")},
		Units: []Unit{server(t, "a", 4001, ""), server(t, "b", 4002, "", name("a"))},
	}
	before := snapshot(t)
	first := diffNow(t, ctx, s, want)
	if d := cmp.Diff(before, snapshot(t)); d != "" {
		t.Errorf("planning wrote: %s", d)
	}
	if len(first) != 8 {
		t.Errorf("changes: %q", names(first))
	}
	converge(t, ctx, s, want)
	for _, u := range want.Units {
		if err := s.Check(ctx, u); err != nil {
			t.Error(err)
		}
		if target, err := os.Readlink("/etc/systemd/system/multi-user.target.wants/" + u.Name); err != nil || filepath.Base(target) != u.Name {
			t.Errorf("link for the boot: %q, %v", target, err)
		}
	}
	for path, mode := range map[string]os.FileMode{
		"/var/lib/nodeagent": 0o700, "/var/lib/nodeagent/components/a": 0o750, "/var/lib/nodeagent/components/a/config": 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	u, _ := observe(t, ctx, s, want).find(name("a"))
	if u.Inputs != "first" || u.Detail.SubState != "running" || !u.Detail.Since.IsZero() {
		t.Errorf("observed %+v", u)
	}
	figures, err := s.ObserveFigures(ctx, want)
	if u, _ := figures.find(name("a")); err != nil || u.Inputs != "first" || u.Detail.Since.IsZero() || u.Detail.MainPID == 0 {
		t.Errorf("observed with figures %+v, %v", u, err)
	}
	gone := converge(t, ctx, s, State{})
	if len(gone) != 4 {
		t.Errorf("changes: %q", names(gone))
	}
	after := snapshot(t)
	for path := range after {
		if _, known := before[path]; !known && strings.Contains(path, "nodeagent-") || strings.HasSuffix(path, "config") {
			t.Errorf("left behind: %s", path)
		}
	}
	if err := s.Check(ctx, want.Units[0]); err == nil {
		t.Error("a removed unit is ready")
	}
}

func TestRealRestartOnChangedInputs(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	want := State{Files: []File{configuration("a", "one\n")}, Units: []Unit{server(t, "a", 4001, ""), server(t, "b", 4002, "")}}
	converge(t, ctx, s, want)
	a, b := mainPID(t, ctx, s, name("a")), mainPID(t, ctx, s, name("b"))
	want.Files[0].Content = []byte("other\n")
	want.Units[0].Inputs = "second"
	changes := converge(t, ctx, s, want)
	last := changes[len(changes)-1]
	if last.Action != plan.ActionRestart || last.Reason != "config changed" || len(changes) != 3 {
		t.Errorf("changes: %q", names(changes))
	}
	if mainPID(t, ctx, s, name("a")) == a {
		t.Error("the unit was not restarted")
	}
	if mainPID(t, ctx, s, name("b")) != b {
		t.Error("another unit was restarted")
	}
}

func TestRealUnitFileDeletedBehindOurBack(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	want := State{Units: []Unit{server(t, "a", 4001, "")}}
	converge(t, ctx, s, want)
	pid := mainPID(t, ctx, s, name("a"))
	if err := os.Remove("/etc/systemd/system/" + name("a")); err != nil {
		t.Fatal(err)
	}
	converge(t, ctx, s, want)
	if mainPID(t, ctx, s, name("a")) != pid {
		t.Error("the unit was restarted although its inputs are the same")
	}
	if err := os.Remove("/etc/systemd/system/" + name("a")); err != nil {
		t.Fatal(err)
	}
	converge(t, ctx, s, State{})
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("the process of a unit that is not wanted still runs")
	}
}

// stopAfter ends a context after so many changes, as a kill -9 would end
// nodeagent: whatever Apply does at its end does not happen.
type stopAfter struct {
	n    int
	stop context.CancelFunc
}

func (s *stopAfter) Begin(plan.Change) {}

func (s *stopAfter) End(plan.Change, error) {
	if s.n--; s.n <= 0 {
		s.stop()
	}
}

func TestRealKilledBehindEachChange(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	start := State{
		Files: []File{configuration("a", "one\n"), configuration("b", "two\n")},
		Units: []Unit{server(t, "a", 4001, ""), server(t, "b", 4002, ""), server(t, "c", 4003, "")},
	}
	// a is restarted, b goes, c is no longer started at boot, d comes.
	end := State{
		Files: []File{configuration("a", "other\n"), configuration("d", "new\n")},
		Units: []Unit{server(t, "a", 4001, ""), server(t, "c", 4003, ""), server(t, "d", 4004, "", name("a"))},
	}
	end.Units[0].Inputs = "second"
	end.Units[0].Content = strings.Replace(end.Units[0].Content, "test server", "changed server", 1)
	end.Units[1].Enabled = false
	converge(t, ctx, s, start)
	changes := diffNow(t, ctx, s, end)
	if len(changes) != 10 {
		t.Fatalf("changes: %q", names(changes))
	}
	for n := 1; n <= len(changes); n++ {
		converge(t, ctx, s, start)
		killed, stop := context.WithCancel(ctx)
		if err := s.Apply(killed, diffNow(t, ctx, s, end), &stopAfter{n, stop}); err == nil {
			t.Errorf("killed after %d: no error", n)
		}
		stop()
		fresh := newSystemd(t)
		rest := converge(t, ctx, fresh, end)
		t.Logf("killed after %d of %d changes, %d were left", n, len(changes), len(rest))
		u, _ := observe(t, ctx, fresh, end).find(name("a"))
		if u.Inputs != "second" {
			t.Errorf("killed after %d: a runs with the inputs %q", n, u.Inputs)
		}
		for _, want := range end.Units {
			if err := fresh.Check(ctx, want); err != nil {
				t.Errorf("killed after %d: %v", n, err)
			}
		}
	}
}
