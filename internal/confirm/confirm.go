// Package confirm decides about changes of the network that undo themselves
// unless somebody confirms them. It is pure: records and moments in, decisions
// out; [Store] alone touches the disk.
//
// Words: an attempt is a change that awaits confirmation; the way back is the
// last confirmed network; a rejected spec is one whose attempt was undone; a
// probe is a question about the network that is asked before and after a change.
package confirm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Moment is a time that no setting of the clock moves: how long the host has
// been up (CLOCK_BOOTTIME), in the boot with the id.
type Moment struct {
	Boot string        `json:"boot"`
	Up   time.Duration `json:"up"`
}

// Way is the way back to a network, as it was in the boot with the id.
type Way struct {
	// Network is the state that leads back, in the form of the package that
	// reads and applies it.
	Network json.RawMessage `json:"network"`
	// Sysctls are those of the network that the change sets or writes over, in
	// the same way.
	Sysctls json.RawMessage `json:"sysctls,omitempty"`
	Boot    string          `json:"boot"`
}

// Attempt is a change of the network that awaits confirmation.
type Attempt struct {
	// Network is the digest of the wanted network, Spec that of the spec.
	Network string `json:"network"`
	Spec    string `json:"spec"`
	// Earlier are the digests of networks that were tried on the way here and
	// never confirmed.
	Earlier []string `json:"earlier,omitempty"`
	// Back leads to the last confirmed network; Want is what is tried.
	Back Way `json:"back"`
	Want Way `json:"want"`
	// Deadline is when it is undone; Until is the same by the clock, for people.
	// Reachable is by when the host can be reached as before if nobody confirms.
	Deadline  Moment        `json:"deadline"`
	Until     time.Time     `json:"until"`
	Reachable time.Time     `json:"reachable,omitzero"`
	Patience  time.Duration `json:"patience"`
	// By is who makes the change: "run", "apply".
	By string `json:"by,omitempty"`
	// ByProbes tells that nobody is asked: the probes decide.
	ByProbes bool `json:"byProbes,omitempty"`
	// Before and After are what the probes found.
	Before []Finding `json:"before,omitempty"`
	After  []Finding `json:"after,omitempty"`
	// Changed is when the change was complete, and what the spec says; zero
	// before that.
	Changed Moment `json:"changed,omitzero"`
	// Undoing is why the attempt is being undone, "" while it is not. From then
	// on it cannot be confirmed.
	Undoing string `json:"undoing,omitempty"`
	// Interrupted is how often `run` was interrupted when it tried this network.
	Interrupted int `json:"interrupted,omitempty"`
	// Tries is how often undoing it has failed.
	Tries int `json:"tries,omitempty"`
}

// ByRun is who makes a change that nobody waits for.
const ByRun = "run"

// mostInterruptions is how often a network is tried whose trial is interrupted
// each time: it may be what ends the agent.
const mostInterruptions = 3

// Undo begins to undo the attempt for a reason that speaks against it.
func (a *Attempt) Undo(reason string) { a.Undoing, a.Interrupted = reason, 0 }

// Interrupt begins to undo the attempt because whoever made it is gone. That
// speaks not against a network that `run` tries: agents are restarted and
// upgraded. A person knows that an apply was interrupted, and can try again.
func (a *Attempt) Interrupt() {
	interrupted := a.Interrupted + 1
	a.Undo("the change was interrupted")
	if a.By != ByRun {
		return
	}
	if a.Interrupted = interrupted; interrupted > 1 {
		a.Undoing = fmt.Sprintf("the change was interrupted %d times", interrupted)
	}
}

// Rejected is a spec whose network is not tried again by itself.
type Rejected struct {
	Network string    `json:"network"`
	Spec    string    `json:"spec"`
	Earlier []string  `json:"earlier,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	Back    Way       `json:"back"`
	// Proved tells that a fresh look found the network to be exactly as Back
	// says; else Left says what was not.
	Proved bool      `json:"proved"`
	Left   string    `json:"left,omitempty"`
	Before []Finding `json:"before,omitempty"`
	After  []Finding `json:"after,omitempty"`
	// Interrupted is how often its trial was, and nothing else speaks against it.
	Interrupted int `json:"interrupted,omitempty"`
}

// Holds tells whether the network with the digest was rejected.
func (r *Rejected) Holds(network string) bool {
	return r != nil && (r.Network == network && !r.Again() || slices.Contains(r.Earlier, network))
}

// Again tells whether the network is tried again, since its trial was only
// interrupted, and not too often.
func (r *Rejected) Again() bool {
	return r != nil && r.Interrupted > 0 && r.Interrupted < mostInterruptions
}

// Interruptions is how often the trial of the network was interrupted so far.
func (r *Rejected) Interruptions(network string) int {
	if r == nil || r.Network != network {
		return 0
	}
	return r.Interrupted
}

// Confirmed is the network that was last confirmed.
type Confirmed struct {
	Network string    `json:"network"` // its digest
	Spec    string    `json:"spec"`    // that of the spec
	At      time.Time `json:"at"`
	// How says who confirmed it: "a person", "probes", "apply", "run".
	How string `json:"how"`
	// Want is what was wanted, in the boot in which it was last made.
	Want Way `json:"want"`
	// Probes are what was found when the probes confirmed it.
	Probes []Finding `json:"probes,omitempty"`
}

// Records are what is remembered; nil where there is none.
type Records struct {
	Attempt   *Attempt
	Rejected  *Rejected
	Confirmed *Confirmed
}

// Rejection is the record of an attempt that was undone. What was tried on the
// way to it, and what was rejected before, goes the same way back and stays
// rejected as well.
func (r Records) Rejection(at time.Time, left string) *Rejected {
	a := r.Attempt
	earlier := slices.Clone(a.Earlier)
	if r.Rejected != nil {
		earlier = append(earlier, r.Rejected.Earlier...)
		if !r.Rejected.Again() {
			earlier = append(earlier, r.Rejected.Network)
		}
	}
	slices.Sort(earlier)
	earlier = slices.DeleteFunc(slices.Compact(earlier), func(network string) bool { return network == a.Network })
	return &Rejected{
		Network: a.Network, Spec: a.Spec, Earlier: earlier, Reason: a.Undoing, At: at.UTC(), Back: a.Back,
		Proved: left == "", Left: left, Before: a.Before, After: a.After, Interrupted: a.Interrupted,
	}
}

// The bounds of Reserve.
const (
	leastReserve = time.Second
	mostReserve  = 10 * time.Second
)

// Reserve is the part of the time given for a confirmation in which the host
// goes back, so that it can be reached again when all of the time is over: going
// back takes a second, a mesh through which people come in some handshakes more.
func Reserve(given time.Duration) time.Duration {
	return min(max(given/4, leastReserve), mostReserve, given)
}

// Due tells what is to be done about an attempt now: why it must be undone, or
// how long it may still be confirmed. Without an attempt both are zero.
func (r Records) Due(now Moment) (undo string, left time.Duration) {
	a := r.Attempt
	switch {
	case a == nil:
		return "", 0
	case a.Undoing != "":
		return a.Undoing, 0
	case a.Deadline.Boot != now.Boot:
		return "the host was rebooted before anybody confirmed", 0
	case now.Up >= a.Deadline.Up:
		return fmt.Sprintf("nobody confirmed within %s", a.Patience), 0
	}
	return "", a.Deadline.Up - now.Up
}

// The reasons for which an attempt is not confirmed.
var (
	ErrNothing     = errors.New("no change of the network awaits confirmation")
	ErrTooLate     = errors.New("too late, the change is being undone")
	ErrInterrupted = errors.New("the change was not completed: it is being made, or was interrupted and will be undone")
	ErrOldSession  = errors.New("this session began before the change and proves nothing: open a new connection to the host and confirm there")
	ErrOwnHost     = errors.New("this connection comes from the host itself and proves nothing: open one from outside")
	ErrNoSession   = errors.New("this is no ssh session; say --local if you sit at the host's console")
)

// Confirmable tells whether the session may confirm the attempt now: nil, or
// why not.
func (r Records) Confirmable(now Moment, s Session, local bool) error {
	a := r.Attempt
	if a == nil {
		return ErrNothing
	}
	if undo, _ := r.Due(now); undo != "" {
		return fmt.Errorf("%w: %s", ErrTooLate, undo)
	}
	if a.Changed == (Moment{}) {
		return ErrInterrupted
	}
	switch {
	case s.Remote && s.Since <= a.Changed.Up:
		return ErrOldSession
	case s.Remote && s.OwnHost:
		return ErrOwnHost
	case !s.Remote && !local:
		return ErrNoSession
	}
	return nil
}

// Session is where a command comes from.
type Session struct {
	// Remote tells that it comes over a connection.
	Remote bool
	// Since is when its oldest process began, as the time since boot.
	Since time.Duration
	// OwnHost tells that the connection comes from an address of this host.
	OwnHost bool
}

// Process is one of the command's ancestors.
type Process struct {
	Name string
	// Started is the time since boot, to a hundredth of a second.
	Started time.Duration
	// Listens tells that it waits for connections: it is no part of one.
	Listens bool
	// OwnHost tells that it has a connection from an address of this host.
	OwnHost bool
}

// servers are the names of processes that serve one ssh connection.
var servers = map[string]bool{"sshd": true, "sshd-session": true, "sshd-auth": true, "dropbear": true}

// SessionOf reads where a command comes from off its ancestors, the nearest
// first. A connection is as old as the oldest of its server's processes: a new
// session that is multiplexed over an old connection proves nothing. sshEnv
// tells that the environment names an ssh connection; where no ancestor serves
// one (tmux, screen), its age is not known and the session counts as old.
func SessionOf(ancestors []Process, sshEnv bool) Session {
	s := Session{Remote: sshEnv}
	found := false
	for _, p := range ancestors {
		if !servers[p.Name] || p.Listens {
			continue
		}
		if !found || p.Started < s.Since {
			s.Since = p.Started
		}
		s.OwnHost = s.OwnHost || p.OwnHost
		s.Remote, found = true, true
	}
	return s
}
