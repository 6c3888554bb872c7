package confirm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDueAndConfirmable(t *testing.T) {
	const s = time.Second
	attempt := func(edit func(*Attempt)) Records {
		a := &Attempt{Deadline: Moment{"b1", 100 * s}, Patience: 60 * s, Changed: Moment{"b1", 45 * s}}
		edit(a)
		return Records{Attempt: a}
	}
	as := func(*Attempt) {}
	fresh, old := Session{Remote: true, Since: 50 * s}, Session{Remote: true, Since: 44 * s}
	for _, tc := range []struct {
		name    string
		records Records
		now     Moment
		session Session
		local   bool
		undo    bool
		left    time.Duration
		err     error
	}{
		{"nothing pending", Records{}, Moment{"b1", 1}, fresh, false, false, 0, ErrNothing},
		{"fresh connection", attempt(as), Moment{"b1", 60 * s}, fresh, false, false, 40 * s, nil},
		{"old connection", attempt(as), Moment{"b1", 60 * s}, old, false, false, 40 * s, ErrOldSession},
		{"old connection that says local", attempt(as), Moment{"b1", 60 * s}, old, true, false, 40 * s, ErrOldSession},
		{"began in the same tick", attempt(as), Moment{"b1", 60 * s}, Session{Remote: true, Since: 45 * s}, false, false, 40 * s, ErrOldSession},
		{"fresh connection from the host itself", attempt(as), Moment{"b1", 60 * s}, Session{true, 50 * s, true}, true, false, 40 * s, ErrOwnHost},
		{"console", attempt(as), Moment{"b1", 60 * s}, Session{}, true, false, 40 * s, nil},
		{"console that does not say so", attempt(as), Moment{"b1", 60 * s}, Session{}, false, false, 40 * s, ErrNoSession},
		{"at the deadline", attempt(as), Moment{"b1", 100 * s}, fresh, false, true, 0, ErrTooLate},
		{"after a reboot", attempt(as), Moment{"b2", 1 * s}, fresh, true, true, 0, ErrTooLate},
		{"being undone", attempt(func(a *Attempt) { a.Undoing = "no" }), Moment{"b1", 60 * s}, fresh, false, true, 0, ErrTooLate},
		{"change not complete", attempt(func(a *Attempt) { a.Changed = Moment{} }), Moment{"b1", 60 * s}, fresh, false, false, 40 * s, ErrInterrupted},
	} {
		undo, left := tc.records.Due(tc.now)
		if (undo != "") != tc.undo || left != tc.left {
			t.Errorf("%s: due %q, %s left; want undo %t, %s left", tc.name, undo, left, tc.undo, tc.left)
		}
		if err := tc.records.Confirmable(tc.now, tc.session, tc.local); !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
	}
}

func TestSessionOf(t *testing.T) {
	listener := Process{Name: "sshd", Started: 1, Listens: true}
	p := func(name string, started time.Duration) Process { return Process{Name: name, Started: started} }
	since := func(at time.Duration) Session { return Session{Remote: true, Since: at} }
	for name, tc := range map[string]struct {
		ancestors []Process
		env       bool
		want      Session
	}{
		"console":                     {[]Process{p("bash", 50), p("login", 40)}, false, Session{}},
		"ssh":                         {[]Process{p("bash", 52), p("sshd", 51), p("sshd", 50), listener}, true, since(50)},
		"OpenSSH 9.8 with sudo":       {[]Process{p("sudo", 60), p("bash", 52), p("sshd-session", 51), p("sshd-session", 50), listener}, false, since(50)},
		"multiplexed over an old one": {[]Process{p("bash", 90), p("sshd", 21), p("sshd", 20), listener}, true, since(20)},
		"by socket activation":        {[]Process{p("bash", 52), p("sshd", 51), p("sshd", 50)}, true, since(50)},
		"tmux begun over ssh":         {[]Process{p("bash", 90), p("tmux: server", 20)}, true, since(0)},
		"from the host itself":        {[]Process{p("bash", 52), {Name: "sshd", Started: 50, OwnHost: true}, listener}, true, Session{true, 50, true}},
	} {
		if got := SessionOf(tc.ancestors, tc.env); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestHereIsReadable(t *testing.T) {
	if _, err := Here(); err != nil {
		t.Error(err)
	}
	p, _, err := process(os.Getpid())
	now, nowErr := Now()
	if err != nil || nowErr != nil || p.Started > now.Up || now.Up-p.Started > time.Hour {
		t.Errorf("this process began at %s, now is %+v (%v, %v)", p.Started, now, err, nowErr)
	}
}

// TestStore leaves out the last step of each end of an attempt, as a power cut
// does: what is found then must lead to the same end or to undoing.
func TestStore(t *testing.T) {
	s := Store{filepath.Join(t.TempDir(), "confirm")}
	back := Way{Network: []byte("{}"), Sysctls: []byte("{}")}
	a, r := &Attempt{Network: "n", Back: back, Undoing: "silence"}, &Rejected{Network: "n", Back: back}
	if err := errors.Join(s.SaveAttempt(a), s.SaveRejected(r)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load() // Reject, cut before its end
	if undo, _ := got.Due(Moment{}); err != nil || undo != "silence" {
		t.Errorf("undo %q (%v)", undo, err)
	}
	if err := s.Reject(r); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Load(); err != nil || got.Attempt != nil || got.Rejected == nil {
		t.Errorf("after Reject %+v (%v)", got, err)
	}
	if err := s.Accept(&Confirmed{Network: "m", Want: back}); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Load(); err != nil || got.Attempt != nil || got.Rejected != nil || got.Confirmed.Network != "m" {
		t.Errorf("after Accept %+v (%v)", got, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, attemptFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err == nil {
		t.Error("a broken record is no error")
	}
}
