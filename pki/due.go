package pki

import (
	"fmt"
	"time"
)

// renewAt is when a certificate is due: in the host's slot, RenewBefore before
// its end and up to a tenth of that earlier. The period of slots takes at most
// half of what lies between issuing and RenewBefore.
//
// A certificate that lives for less than that leaves (its issuer gave less than
// was asked) is due when a third of its life is left, or up to a sixth of it
// earlier: a new certificate is never due at once.
func renewAt(r Request, f Found) time.Time {
	period := min(r.RenewBefore/10, (r.Lifetime-r.RenewBefore)/2)
	life := f.NotAfter.Sub(f.NotBefore)
	if life > Backdate {
		life -= Backdate // what lies between issuing and the end
	}
	if life > r.RenewBefore+max(period, 0) {
		return r.Slot.before(f.NotAfter.Add(-r.RenewBefore), period, r.Name)
	}
	return r.Slot.before(f.NotAfter.Add(-life/3), life/6, r.Name)
}

// authorityRenewAt is when an authority's certificate is due.
func authorityRenewAt(have *Authority, want Authority) time.Time {
	life := have.NotAfter.Sub(have.NotBefore)
	return have.NotAfter.Add(-min(want.RenewBefore, life/2))
}

// authorityJob is what is to be done with an authority.
type authorityJob int

const (
	authorityKeep authorityJob = iota
	authorityMake
	authorityComplete // a certificate for a key that has none
	authorityRenew    // a new certificate for the same key
	authorityMend     // by a person
)

// authorityWork decides what is to be done with an authority, and why.
func authorityWork(have *Authority, want Authority, now time.Time) (authorityJob, string) {
	switch {
	case have == nil || have.Condition == Missing:
		return authorityMake, "this host has no such authority"
	case have.Condition == Incomplete:
		return authorityComplete, have.Problem + "; its key is there"
	case have.Condition == Damaged:
		return authorityMend, have.Problem
	case now.Before(have.NotBefore):
		return authorityRenew, "begins on " + date(have.NotBefore) + ", which is in the future"
	case !now.Before(authorityRenewAt(have, want)):
		return authorityRenew, dueReason(have.NotAfter, authorityRenewAt(have, want), now)
	}
	return authorityKeep, ""
}

// dueReason says when something ends and when it is renewed.
func dueReason(end, renew, now time.Time) string {
	if !now.Before(end) {
		return fmt.Sprintf("expired %s ago", span(now.Sub(end)))
	}
	return fmt.Sprintf("expires in %s, renewed %s before its end", span(end.Sub(now)), span(end.Sub(renew)))
}

// span prints a duration as people say it.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	count := func(n time.Duration, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d >= 2*day:
		return count(d/day, "day")
	case d >= 2*time.Hour:
		return count(d/time.Hour, "hour")
	case d >= 2*time.Minute:
		return count(d/time.Minute, "minute")
	}
	return count(d/time.Second, "second")
}

// date prints a moment for people, in UTC.
func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// NextDue is the earliest moment from now on at which Diff gives a change that
// need not wait, if nothing but time passes: now itself when there is one
// already, the zero time when nothing is wanted that ends.
func NextDue(have, want State, now time.Time) time.Time {
	d := differ{have: have, want: want, now: now}
	for _, c := range d.diff() {
		if _, waits := c.Payload.(heldOp); !waits {
			return now
		}
	}
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, w := range want.Authorities {
		a := have.authority(w.Name)
		if _, _, held := d.authorityWork(a, w); !held.until.IsZero() {
			sooner(held.until)
			continue
		}
		sooner(authorityRenewAt(a, w))
	}
	for _, w := range want.Certificates {
		c := have.certificate(w.Name)
		if v := d.judge(c, w.Request); !v.until.IsZero() {
			sooner(v.until)
			continue
		}
		sooner(d.due(w.Request, c.Found))
	}
	return next
}
