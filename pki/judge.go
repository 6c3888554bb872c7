package pki

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// The states of a certificate in a [Status].
const (
	StateOK      = "ok"
	StateDue     = "due"     // to be renewed now
	StateExpired = "expired" // or not valid yet
	StateMissing = "missing"
	StateDamaged = "damaged"
	StateChanged = "changed" // the spec, or the authority, is another one
	StateRefused = "refused" // a later one was not taken, and the one before put back
	StateUnfit   = "unfit"   // the issuer does not sign what the spec asks for
	StateHeld    = "held"    // waits for the clock to be synchronised
)

// verdict is what is to be done with a certificate; no action for nothing.
type verdict struct {
	state  string
	action plan.Action
	reason string
	// until is when it is judged anew because it waits, the zero time where it
	// does not; why is what it waits for.
	until time.Time
	why   string
}

// lifetimeSlack is by how much a certificate may outlive the spec's lifetime,
// for the backdating of issuers.
const lifetimeSlack = 2 * Backdate

// judge decides what is to be done with a certificate: by the pair, unless
// issuing another one must wait.
func (d *differ) judge(have *Certificate, want Request) verdict {
	v := d.judgePair(have, want)
	if v.action != plan.ActionIssue && v.action != plan.ActionRenew {
		return v
	}
	var f Found
	if have != nil {
		f = have.Found
	}
	if reason, left := d.have.Clock.holds(d.now, d.have.newest(), f.Condition == Sound); reason != "" {
		return v.waits(StateHeld, reason, d.now.Add(left))
	}
	if u := f.Unfit; u.holds(want, d.bundleOf(want.CA), f, d.now) {
		end := u.until(f.NotAfter)
		return v.waits(StateUnfit, fmt.Sprintf("%s; the issuer is asked again in %s", u.Reason, span(end.Sub(d.now))), end)
	}
	// One that is good still is not replaced while its last replacement was
	// refused.
	if r := f.Refused; (v.state == StateDue || v.state == StateChanged) && r.holds(want, f, d.now) {
		end := r.until(f.NotAfter)
		return v.waits(StateRefused, fmt.Sprintf("its successor was not taken (%s): another one is made in %s", r.Reason, span(end.Sub(d.now))), end)
	}
	return v
}

// waits is the verdict when nothing is issued before a moment.
func (v verdict) waits(state, why string, until time.Time) verdict {
	return verdict{state: state, action: v.action, reason: v.reason + "; " + why, until: until, why: why}
}

// bundleOf is the digest of the trust bundle of a CA that lies on disk.
func (d *differ) bundleOf(ca string) string {
	if b := d.have.bundle(ca); b != nil {
		return b.Digest
	}
	return ""
}

// judgePair decides by the pair alone. The gravest reason comes first.
func (d *differ) judgePair(have *Certificate, want Request) verdict {
	if have == nil || have.Found.Condition == Missing {
		return verdict{state: StateMissing, action: plan.ActionIssue, reason: "the certificate is missing"}
	}
	f, a := have.Found, d.anchor(want.CA)
	if f.Condition == Damaged {
		return verdict{state: StateDamaged, action: plan.ActionIssue, reason: f.Problem}
	}
	if a.anew {
		return verdict{state: StateChanged, action: plan.ActionIssue, reason: "the authority " + want.CA + " is made anew"}
	}
	if a.known && !slices.Contains(a.keys, f.SignedBy) {
		return verdict{state: StateChanged, action: plan.ActionIssue, reason: "it is not signed by the authority " + want.CA + " that this host trusts"}
	}
	if a.known && f.SignedBy != a.keys[0] {
		return verdict{state: StateChanged, action: plan.ActionIssue, reason: "another authority signs for " + want.CA + " now"}
	}
	if reason := mismatch(want, have.Request); reason != "" {
		return verdict{state: StateChanged, action: plan.ActionIssue, reason: reason}
	}
	if v := d.judgeTimes(want, f); v.action != "" {
		return v
	}
	if f.Bundle == "" || f.Bundle != a.bundle || d.trustChanges(want.CA) {
		return verdict{state: StateChanged, action: plan.ActionUpdate, reason: "its ca.crt is not the trust bundle " + want.CA + "; key and certificate stay"}
	}
	return verdict{state: StateOK}
}

func (d *differ) judgeTimes(want Request, f Found) verdict {
	switch due := d.due(want, f); {
	case d.now.Before(f.NotBefore):
		return verdict{state: StateExpired, action: plan.ActionIssue, reason: "begins on " + date(f.NotBefore) + ", which is in the future"}
	case !d.now.Before(f.NotAfter):
		return verdict{state: StateExpired, action: plan.ActionRenew, reason: dueReason(f.NotAfter, due, d.now)}
	case !d.now.Before(due):
		return verdict{state: StateDue, action: plan.ActionRenew, reason: dueReason(f.NotAfter, due, d.now)}
	}
	return verdict{}
}

// due is when a certificate is to be renewed. One that ends with its authority
// gains nothing from being renewed before the authority is.
func (d *differ) due(want Request, f Found) time.Time {
	if end := d.anchor(want.CA).end; !end.IsZero() && !end.After(f.NotAfter) {
		return f.NotAfter
	}
	return renewAt(want, f)
}

// mismatch says in which way a certificate is not what the request asks for;
// "" when it is. A lifetime is wrong only where it is longer.
func mismatch(want, have Request) string {
	switch {
	case have.CommonName != want.CommonName:
		return fmt.Sprintf("its common name is %q, want %q", have.CommonName, want.CommonName)
	case have.Organization != want.Organization:
		return fmt.Sprintf("its organisation is %q, want %q", have.Organization, want.Organization)
	case have.Server != want.Server || have.Client != want.Client:
		return fmt.Sprintf("its usage is %s, want %s", usage(have), usage(want))
	case have.KeyType != want.KeyType:
		return fmt.Sprintf("its key is %s, want %s", have.KeyType, want.KeyType)
	case have.Lifetime > want.Lifetime+lifetimeSlack:
		return fmt.Sprintf("it lives for %s, want %s", span(have.Lifetime), span(want.Lifetime))
	}
	return strings.Join(slices.Concat(
		difference("lacks the names", allNames(want), allNames(have)),
		difference("has the names that it should not have", allNames(have), allNames(want)),
	), "; ")
}

// difference words the names that are in the first list only.
func difference(words string, list, other []string) []string {
	var only []string
	for _, name := range list {
		if !slices.Contains(other, name) {
			only = append(only, name)
		}
	}
	if len(only) == 0 {
		return nil
	}
	return []string{"it " + words + " " + strings.Join(only, ", ")}
}

// allNames are the DNS names and then the addresses, as text.
func allNames(r Request) []string {
	list := slices.Clone(r.DNSNames)
	for _, a := range r.Addresses {
		list = append(list, netip.Addr.String(a))
	}
	return list
}

func usage(r Request) string {
	var list []string
	if r.Server {
		list = append(list, "server")
	}
	if r.Client {
		list = append(list, "client")
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, "+")
}
