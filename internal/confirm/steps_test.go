package confirm

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// TestDeadAfterEachStep cuts an attempt after each of its writes, as a kill or a
// power cut does, and asks what everybody makes of what is on disk: the alarm
// before and at the deadline, the next boot, a person who confirms, the daemon.
func TestDeadAfterEachStep(t *testing.T) {
	const s = time.Second
	now, deadline, reboot := Moment{"b1", 20 * s}, Moment{"b1", 60 * s}, Moment{"b2", 5 * s}
	back := Way{Network: []byte(`{}`), Boot: "b1"}
	attempt := Attempt{Network: "new", Spec: "s2", Back: back, Want: back, Deadline: deadline, Patience: 50 * s}
	old := &Confirmed{Network: "old", Want: back}
	changed := attempt
	changed.Changed = Moment{"b1", 15 * s}
	undoing := changed
	undoing.Undoing = "the gateway does not answer"
	byRun := attempt
	byRun.By, byRun.ByProbes = ByRun, true
	interrupted := byRun
	interrupted.Interrupt()
	fresh := Session{Remote: true, Since: 18 * s}
	kept := &Confirmed{Network: "new", Want: back}
	steps := map[string][]struct {
		name  string
		write func(Store) error
		// undo: the alarm undoes it at its deadline and a boot at once; at: it
		// does so now already.
		undo, at bool
		confirm  error
		turn     Turn // of the daemon, which still wants the new network
	}{
		"kept": {
			{"nothing yet", func(st Store) error { return st.SaveConfirmed(old) }, false, false, ErrNothing, TurnTry},
			{"recorded", func(st Store) error { return st.SaveAttempt(&attempt) }, true, false, ErrInterrupted, TurnWait},
			{"changed", func(st Store) error { return st.SaveAttempt(&changed) }, true, false, nil, TurnWait},
			{"confirmation written", func(st Store) error { return st.save(confirmedFile, kept) }, true, false, nil, TurnWait},
			{"rejections forgotten", func(st Store) error { return st.remove(rejectedFile) }, true, false, nil, TurnWait},
			{"attempt forgotten", func(st Store) error { return st.remove(attemptFile) }, false, false, ErrNothing, TurnMake},
		},
		"undone": {
			{"nothing yet", func(st Store) error { return st.SaveConfirmed(old) }, false, false, ErrNothing, TurnTry},
			{"changed", func(st Store) error { return st.SaveAttempt(&changed) }, true, false, nil, TurnWait},
			{"undoing", func(st Store) error { return st.SaveAttempt(&undoing) }, true, true, ErrTooLate, TurnWait},
			{"rejection written", func(st Store) error {
				return st.SaveRejected(Records{Attempt: &undoing}.Rejection(time.Time{}, ""))
			}, true, true, ErrTooLate, TurnWait},
			{"attempt forgotten", func(st Store) error { return st.remove(attemptFile) }, false, false, ErrNothing, TurnBack},
		},
		"interrupted": {
			{"nothing yet", func(st Store) error { return st.SaveConfirmed(old) }, false, false, ErrNothing, TurnTry},
			{"recorded", func(st Store) error { return st.SaveAttempt(&byRun) }, true, false, ErrInterrupted, TurnWait},
			{"undoing", func(st Store) error { return st.SaveAttempt(&interrupted) }, true, true, ErrTooLate, TurnWait},
			{"rejection written", func(st Store) error {
				return st.SaveRejected(Records{Attempt: &interrupted}.Rejection(time.Time{}, ""))
			}, true, true, ErrTooLate, TurnWait},
			{"attempt forgotten", func(st Store) error { return st.remove(attemptFile) }, false, false, ErrNothing, TurnTry},
		},
	}
	for end, list := range steps {
		st := Store{filepath.Join(t.TempDir(), "confirm")}
		for _, step := range list {
			if err := step.write(st); err != nil {
				t.Fatal(err)
			}
			r, err := st.Load()
			if err != nil {
				t.Fatal(err)
			}
			due := func(m Moment) bool { undo, _ := r.Due(m); return undo != "" }
			if due(now) != step.at || due(deadline) != step.undo || due(reboot) != step.undo {
				t.Errorf("%s, dead after %q: due now %t, at the deadline %t, after a reboot %t", end, step.name, due(now), due(deadline), due(reboot))
			}
			if err := r.Confirmable(now, fresh, false); !errors.Is(err, step.confirm) {
				t.Errorf("%s, dead after %q: confirmable: %v, want %v", end, step.name, err, step.confirm)
			}
			if got := r.Turn("new", "b1", true); got != step.turn {
				t.Errorf("%s, dead after %q: the daemon's turn is %d, want %d", end, step.name, got, step.turn)
			}
		}
	}
}
