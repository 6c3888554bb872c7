package units

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// applyErr applies what is to be done for want and returns the error text.
func applyErr(t *testing.T, ctx context.Context, s *Systemd, want State) string {
	t.Helper()
	err := s.Apply(ctx, diffNow(t, ctx, s, want), plan.Silent{})
	if err == nil {
		t.Fatal("apply succeeded")
	}
	t.Logf("apply: %v", err)
	return err.Error()
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q lacks %q", text, p)
		}
	}
}

func TestRealFailureText(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	u := server(t, "a", 4001, "")
	u.Ready = nil
	for _, tc := range []struct {
		name, from, to string
		parts          []string
	}{
		{"ends before it is ready", "Restart=always", "Restart=no\nType=notify\nEnvironment=" + helperVariable + "=exit", []string{`systemd says "failed"`, "exited with 3", "journalctl -u nodeagent-a.service"}},
		{"program that is no program", "ExecStart=", "Type=exec\nExecStart=/etc/hostname\nExecStop=", []string{"exited with 203, which means that the program cannot be executed"}},
		{"unknown user", "Restart=always", "Restart=no\nType=exec\nUser=nobody-knows", []string{"exited with 217, which means that its user is unknown"}},
		{"killed", "Restart=always", "Restart=no\nType=notify\nExecStartPre=/bin/sh -c 'kill -9 $$$$'", []string{"result signal"}},
		{"not ready in time", "Restart=always", "Restart=no\nType=notify\nTimeoutStartSec=500ms", []string{"result timeout"}},
		{"unit file without a program", "ExecStart=", "ExecStop=", []string{"bad unit file setting", "nodeagent-a.service"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := u
			bad.Content = strings.Replace(u.Content, tc.from, tc.to, 1)
			mustContain(t, applyErr(t, ctx, s, State{Units: []Unit{bad}}), tc.parts...)
			if changes := diffNow(t, ctx, s, State{Units: []Unit{bad}}); len(changes) == 0 {
				t.Error("a unit that failed to start counts as converged")
			}
			converge(t, ctx, s, State{})
		})
	}
}

func TestRealProbeNotAnswering(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	gate := t.TempDir() + "/gate"
	a, b, c := server(t, "a", 4001, gate), server(t, "b", 4002, "", name("a")), server(t, "c", 4003, "")
	a.Ready.Timeout = 2 * time.Second
	want := State{Units: []Unit{a, b, c}}
	text := applyErr(t, ctx, s, want)
	mustContain(t, text, "start unit nodeagent-a.service: not ready within 2s", "503 Service Unavailable: still loading",
		"start unit nodeagent-b.service: not started: nodeagent-a.service is not ready")
	have := observe(t, ctx, s, want)
	for letter, active := range map[string]bool{"a": true, "b": false, "c": true} {
		if u, _ := have.find(name(letter)); u.Active != active {
			t.Errorf("%s: active is %v", letter, u.Active)
		}
	}
	mustContain(t, s.Check(ctx, a).Error(), "503")
	// Now a runs, though it is not ready: what needs it is still not started.
	mustContain(t, applyErr(t, ctx, s, want), "not started: nodeagent-a.service is not ready: not ready within 2s")
	// The gate opens while b waits for it.
	a.Ready.Timeout = 20 * time.Second
	timer := time.AfterFunc(500*time.Millisecond, func() { _ = os.WriteFile(gate, nil, 0o644) })
	defer timer.Stop()
	converge(t, ctx, s, State{Units: []Unit{a, b, c}})
}

// TestRealServerNotAnswering: the error says what is waited for, as long as that is
// the reason.
func TestRealServerNotAnswering(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	a, b := server(t, "a", 4001, t.TempDir()+"/gate"), server(t, "b", 4002, "")
	a.Ready.Timeout = 2 * time.Second
	a.Server = &Server{Name: "a server of names", Probe: *b.Ready}
	const text = `it waits for a server of names: Get "http://127.0.0.1:4002/readyz": dial tcp 127.0.0.1:4002: connect: connection refused`
	mustContain(t, applyErr(t, ctx, s, State{Units: []Unit{a}}), "start unit nodeagent-a.service: not ready within 2s; "+text)
	mustContain(t, s.Check(ctx, a).Error(), text)
	converge(t, ctx, s, State{Units: []Unit{a, b}})
	mustContain(t, s.Check(ctx, a).Error(), "503 Service Unavailable: still loading")
}

func TestRealFailingFastEndsTheWait(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	a := server(t, "a", 4001, "")
	a.Content = strings.Replace(a.Content, "Restart=always", "Restart=no\nEnvironment="+helperVariable+"=exit", 1)
	a.Ready.Timeout = 5 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	mustContain(t, applyErr(t, ctx, s, State{Units: []Unit{a}}), "it is failed (failed), result exit-code, its process exited with 3")
}

func TestRealStartLimitIsForgotten(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	a := server(t, "a", 4001, "")
	good := a.Content
	a.Content = strings.Replace(good, "Restart=always", "Restart=always\nEnvironment="+helperVariable+"=exit", 1)
	a.Content = strings.Replace(a.Content, "200ms", "0", 1)
	a.Ready.Timeout = 10 * time.Second
	applyErr(t, ctx, s, State{Units: []Unit{a}})
	eventually(t, "the start limit", func() error {
		u, _ := observe(t, ctx, s, State{}).find(a.Name)
		if u.Detail.ActiveState != "failed" {
			return s.failure(ctx, a.Name)
		}
		return nil
	})
	a.Content = good
	converge(t, ctx, s, State{Units: []Unit{a}})
}

func TestRealMissingBinary(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	a := server(t, "a", 4001, "")
	a.Binary, a.Missing = "/opt/none/a", `searched "/opt/none" (mercury.toml:7: kubernetes.binaries)`
	want := State{Units: []Unit{a}}
	const text = `no binary at /opt/none/a: searched "/opt/none" (mercury.toml:7: kubernetes.binaries)`
	changes := diffNow(t, ctx, s, want)
	mustContain(t, changes[len(changes)-1].Reason, text)
	mustContain(t, applyErr(t, ctx, s, want), "start unit nodeagent-a.service: a: "+text)
}

// TestRealMissingProgram: a unit that runs without a program that it needs is
// not ready, and is not started.
func TestRealMissingProgram(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	a := server(t, "a", 4001, "")
	converge(t, ctx, s, State{Units: []Unit{a}})
	a.Programs = []Program{{Name: "sh", Folders: []string{"/opt/none", "/bin"}}, {Name: "bridge", Folders: []string{"/opt/none"}, Missing: "install it"}}
	const text = "no bridge in /opt/none: install it"
	if err := s.Check(ctx, a); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("checked: %v, want %q", err, text)
	}
	if err := s.Stop(ctx, a.Name); err != nil {
		t.Fatal(err)
	}
	want := State{Units: []Unit{a}}
	changes := diffNow(t, ctx, s, want)
	mustContain(t, changes[len(changes)-1].Reason, "it cannot start: "+text)
	mustContain(t, applyErr(t, ctx, s, want), "start unit nodeagent-a.service: a: "+text)
}

func TestRealForeignUnitsAreUntouched(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	const path, masked, other = "/etc/systemd/system/nodeagent-a.service", "/etc/systemd/system/nodeagent-b.service", "/etc/systemd/system/nodeagent-other.service"
	foreign := "[Service]\nExecStart=/bin/sleep 1000\n"
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, []byte(foreign), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(p) })
	}
	if err := os.Symlink("/dev/null", masked); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(masked) })
	for _, p := range []string{"a", "other"} {
		if err := s.Start(ctx, Unit{Name: name(p)}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(context.Background(), name(p)); err != nil {
				t.Error(err)
			}
		})
	}
	before := snapshot(t)
	text := applyErr(t, ctx, s, State{Units: []Unit{server(t, "a", 4001, ""), server(t, "b", 4002, "")}})
	mustContain(t, text, path+" was not written by nodeagent", masked+" masks it", "systemctl unmask nodeagent-b.service")
	converge(t, ctx, s, State{}) // and they are not removed either
	if d := cmp.Diff(before, snapshot(t)); d != "" {
		t.Errorf("files changed: %s", d)
	}
	for _, p := range []string{"a", "other"} {
		if err := s.Check(ctx, Unit{Name: name(p)}); err != nil {
			t.Errorf("a foreign unit was stopped: %v", err)
		}
	}
}

// readOnlyEtc makes the folder of unit files as it is on NixOS. It returns what
// undoes it.
func readOnlyEtc(t *testing.T) (undo func()) {
	t.Helper()
	const dir = "/etc/systemd/system"
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	undone := false
	undo = func() {
		if !undone {
			undone = true
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(undo)
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return undo
}

func TestRealReadOnlyEtc(t *testing.T) {
	s, ctx := realHost(t), t.Context()
	undo := readOnlyEtc(t)
	want := State{Files: []File{configuration("a", "one\n")}, Units: []Unit{server(t, "a", 4001, ""), server(t, "b", 4002, "", name("a"))}}
	converge(t, ctx, s, want)
	if _, err := os.Lstat("/run/systemd/system/multi-user.target.wants/" + name("a")); err != nil {
		t.Error(err)
	}
	want.Units[0].Inputs = "second"
	converge(t, ctx, s, want)
	pid := mainPID(t, ctx, s, name("a"))
	undo()
	converge(t, ctx, s, want)
	for path := range snapshot(t) {
		if strings.HasPrefix(path, "/run/") && strings.Contains(path, "nodeagent-") {
			t.Errorf("left behind after the folder became writable: %s", path)
		}
	}
	if mainPID(t, ctx, s, name("a")) != pid {
		t.Error("moving the unit file restarted the unit")
	}
	// What lies in a folder that became read-only cannot be taken away, and
	// would hide what nodeagent writes elsewhere: that is said.
	undo = readOnlyEtc(t)
	mustContain(t, applyErr(t, ctx, s, want), "delete unit nodeagent-a.service", "read-only file system")
	undo()
	converge(t, ctx, s, State{})
}
