package units

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// carryOut is Apply as a pure function: what a host becomes by the changes when
// each of them succeeds. end tells whether Apply came to its end, or whether it
// was killed after the last of the changes.
func carryOut(t *testing.T, have State, changes []plan.Change, end bool) State {
	t.Helper()
	next := State{Files: slices.Clone(have.Files), Units: slices.Clone(have.Units), Host: have.Host}
	unit := func(name string) *Unit {
		i := slices.IndexFunc(next.Units, func(u Unit) bool { return u.Name == name })
		if i < 0 {
			next.Units = append(next.Units, Unit{Name: name})
			i = len(next.Units) - 1
		}
		return &next.Units[i]
	}
	settle := func() {
		for i := range next.Units {
			next.Units[i].Stale = false
		}
	}
	for _, c := range changes {
		switch s := c.Payload.(type) {
		case writeFile:
			next.Files = slices.DeleteFunc(next.Files, func(f File) bool { return f.Path == s.file.Path })
			next.Files = append(next.Files, s.file)
		case deleteFile:
			next.Files = slices.DeleteFunc(next.Files, func(f File) bool { return f.Path == s.path })
		case writeUnit:
			u := unit(s.name)
			u.Content, u.Written = splitInputs(s.content)
			u.Stale = true
			// Links for which the new content asks are not there yet.
			u.Enabled = u.Enabled && len(installLinks(u.Content)) > 0
		case removeCopies:
			u := unit(c.Key[len("unit "):])
			u.Copies, u.Stale = nil, true
		case reloadManager:
			settle()
		case enableUnit:
			unit(s.name).Enabled = s.enable
		case stopUnit:
			u := unit(s.name)
			u.Active, u.Inputs = false, ""
		case startUnit:
			settle()
			u := unit(s.unit.Name)
			if s.restart || !u.Active && u.Inputs == "" {
				u.Inputs = u.Written
			}
			u.Active = true
		case removeUnit:
			next.Units = slices.DeleteFunc(next.Units, func(u Unit) bool { return u.Name == s.unit.Name })
		default:
			t.Fatalf("unknown payload %T", s)
		}
	}
	if end {
		settle()
	}
	return next
}

// randomState is a small host, wanted or observed. Few values, so that equal
// ones meet.
func randomState(r *rand.Rand, observed bool) State {
	pick := func(values ...string) string { return values[r.IntN(len(values))] }
	var s State
	for i := range 3 {
		if r.IntN(3) > 0 {
			s.Files = append(s.Files, File{
				Path: fmt.Sprintf("/var/lib/nodeagent/components/a/%d", i), Content: []byte(pick("x\n", "y\n")),
				Mode: 0o600, Secret: r.IntN(2) == 0,
			})
		}
	}
	for _, name := range []string{"nodeagent-a.service", "nodeagent-b.service", "nodeagent-etcd.service", "nodeagent-m.mount"} {
		if r.IntN(4) == 0 {
			continue
		}
		u := Unit{
			Name: name, Active: r.IntN(2) == 0, Inputs: pick("1", "2"),
			Content: pick(service, service+"# changed\n", Header+"\n[Service]\nExecStart=/bin/y\n"),
		}
		if name == "nodeagent-m.mount" {
			u.Content = Header + "\n[Mount]\nWhat=" + pick("a", "b") + "\n[Install]\nWantedBy=x.target\n"
		}
		u.Enabled = r.IntN(2) == 0 && len(installLinks(u.Content)) > 0
		if observed {
			randomObserved(r, &u)
		}
		s.Units = append(s.Units, u)
	}
	if observed {
		s.Host.UnitFolder = "/etc/systemd/system"
	}
	return s
}

func randomObserved(r *rand.Rand, u *Unit) {
	u.Written, u.Stale = carried(*u), r.IntN(4) == 0
	if !hasService(u.Content) || !u.Active && r.IntN(4) > 0 {
		u.Inputs = ""
	}
	switch r.IntN(6) {
	case 0: // the file was deleted behind our back
		u.Content, u.Written, u.Enabled = "", "", false
	case 1: // it lies in the other folder
		u.Content, u.Written, u.Enabled = "", "", false
		u.Copies = []string{"/run/systemd/system/" + u.Name}
	case 2: // its digest was written but it was not restarted
		if hasService(u.Content) {
			u.Written = "2"
		}
	}
}

func names(changes []plan.Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String()+" because "+c.Reason)
	}
	return out
}

// The laws: carrying out the difference leaves none, and so it does after being
// killed behind any of the changes and converging again.
func TestDiffConvergesFromAnywhereKilledAnywhere(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		have, want := randomState(r, true), randomState(r, false)
		changes := Diff(have, want)
		if again := Diff(have, want); !cmp.Equal(names(changes), names(again)) {
			t.Fatalf("not deterministic: %s", cmp.Diff(names(changes), names(again)))
		}
		for n := range len(changes) + 1 {
			reached := carryOut(t, have, changes[:n], n == len(changes))
			rest := Diff(reached, want)
			if n == len(changes) && len(rest) > 0 {
				t.Fatalf("after all of %q\nthis is left: %q\nhave %+v\nwant %+v", names(changes), names(rest), have, want)
			}
			if left := Diff(carryOut(t, reached, rest, true), want); len(left) > 0 {
				t.Fatalf("killed after %q\nand then %q\nthis is left: %q", names(changes[:n]), names(rest), names(left))
			}
		}
	}
}

// Diff must not alter what it is given: plan shows it and apply uses it.
func TestDiffLeavesItsArgumentsAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		have, want := randomState(r, true), randomState(r, false)
		haveCopy, wantCopy := carryOut(t, have, nil, false), carryOut(t, want, nil, false)
		Diff(have, want)
		if d := cmp.Diff(haveCopy, have) + cmp.Diff(wantCopy, want); d != "" {
			t.Fatal(d)
		}
	}
}
