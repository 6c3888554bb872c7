// Package plan holds the words in which every domain speaks of work to be
// done: a Change is one typed edit, a Plan is the ordered changes of all
// domains. Diff functions make them, Apply functions carry them out, and this
// package prints them as text for people and as JSON for scripts.
//
// Invariants: a Change never holds a secret in a printable field (use
// [Fingerprint]), and two runs of the same Diff over the same values give the
// same changes in the same order.
package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Effect is what a change disturbs while it is carried out, from nothing to
// the etcd quorum. The zero value is Quiet.
type Effect int

// The effect classes in ascending order of disturbance.
const (
	// Quiet disturbs nothing that runs.
	Quiet Effect = iota
	// Reload makes a running component read its inputs again.
	Reload
	// Restart stops and starts a component.
	Restart
	// Disconnect may cut connections over the network of the host.
	Disconnect
	// Quorum takes an etcd member away while it lasts. Apply such changes on one
	// host at a time.
	Quorum
)

var effectNames = [...]string{"quiet", "reload", "restart", "disconnect", "quorum"}

// String returns the word that plans print: "quiet", "reload", "restart",
// "disconnect" or "quorum".
func (e Effect) String() string {
	if e < 0 || int(e) >= len(effectNames) {
		return fmt.Sprintf("effect(%d)", int(e))
	}
	return effectNames[e]
}

// MarshalText implements encoding.TextMarshaler.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Effect) UnmarshalText(text []byte) error {
	for i, name := range effectNames {
		if name == string(text) {
			*e = Effect(i)
			return nil
		}
	}
	return fmt.Errorf("unknown effect %q", text)
}

// Action says in one word what is done to the thing that a change names.
type Action string

// The actions that the domains use.
const (
	ActionCreate  Action = "create"
	ActionUpdate  Action = "update"
	ActionDelete  Action = "delete"
	ActionLoad    Action = "load"   // a kernel module
	ActionRevert  Action = "revert" // to the original value, which the spec no longer overrides
	ActionIssue   Action = "issue"  // a certificate that is not there, or not usable
	ActionRenew   Action = "renew"  // a certificate that is due
	ActionEncrypt Action = "encrypt"
	ActionDecrypt Action = "decrypt"
	ActionStart   Action = "start"
	ActionStop    Action = "stop"
	ActionRestart Action = "restart"
	ActionReload  Action = "reload"
	ActionEnable  Action = "enable"
	ActionDisable Action = "disable"
)

// Change is one typed edit of one thing in one domain.
type Change struct {
	// Domain is the name of the domain that made the change and applies it.
	Domain string `json:"domain"`
	// Key names the thing within its domain and is stable between runs, for
	// example "sysctl net.ipv4.ip_forward" or "address 192.0.2.10/24 on lan0".
	Key string `json:"key"`
	// Action is what is done to it.
	Action Action `json:"action"`
	// Effect is what doing so disturbs.
	Effect Effect `json:"effect"`
	// Reason says why, in a few words that complete "because …".
	Reason string `json:"reason"`
	// Before and After are printable values, one or several lines, empty where
	// there is none. Secrets appear as fingerprints only.
	Before string `json:"before"`
	After  string `json:"after"`

	// Payload is what the domain's Apply needs. It is never printed.
	Payload any `json:"-"`
}

// String names the change in one line, as errors and logs do.
func (c Change) String() string {
	return fmt.Sprintf("%s: %s %s", c.Domain, c.Action, c.Key)
}

// Plan is the changes of all domains in the order in which they are applied.
type Plan struct {
	Changes []Change `json:"changes"`
	// Warnings are what a person should know before the changes are applied, one
	// line each.
	Warnings []string `json:"warnings"`
}

// Empty tells whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Changes) == 0 }

// Effect returns the strongest effect of all changes, Quiet when there is none.
func (p Plan) Effect() Effect {
	strongest := Quiet
	for _, c := range p.Changes {
		strongest = max(strongest, c.Effect)
	}
	return strongest
}

// Domain returns the changes of one domain, in order.
func (p Plan) Domain(name string) []Change {
	var changes []Change
	for _, c := range p.Changes {
		if c.Domain == name {
			changes = append(changes, c)
		}
	}
	return changes
}

// A Reporter hears of each change as it is carried out. Implementations are
// called from one goroutine at a time.
type Reporter interface {
	// Begin is called before the change is attempted.
	Begin(Change)
	// End is called after it, with the error that it met or nil.
	End(Change, error)
}

// Silent is the Reporter that says nothing.
type Silent struct{}

// Begin implements Reporter.
func (Silent) Begin(Change) {}

// End implements Reporter.
func (Silent) End(Change, error) {}

// Each carries out changes one after another in the given order, reports each
// one, goes on past those that fail and returns all failures joined, each with
// the change's name in front. It stops early only when ctx is done.
func Each(ctx context.Context, changes []Change, rep Reporter, do func(context.Context, Change) error) error {
	var failed []error
	for _, c := range changes {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
		rep.Begin(c)
		err := do(ctx, c)
		rep.End(c, err)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", c.Action, c.Key, err))
		}
	}
	return errors.Join(failed...)
}

// Fingerprint stands for a secret or a long value in a plan: "sha256:" and the
// first 12 hexadecimal digits of its SHA-256. It is for values with enough
// entropy that a hash gives nothing away: keys, not passwords.
func Fingerprint(value []byte) string {
	sum := sha256.Sum256(value)
	return "sha256:" + hex.EncodeToString(sum[:6])
}
