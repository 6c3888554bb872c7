package pki

import (
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Alarm is something that a person must see to, though no change of a plan does.
type Alarm struct {
	Text string
	// Now tells that it keeps certificates from being renewed already.
	Now bool
}

// alarmMargin is how long before a CA is too old to sign for a whole lifetime
// its alarm begins at the latest; less where certificates live shorter.
const alarmMargin = 28 * 24 * time.Hour

// Alarms are what is coming for a host's certificates: CAs that end before the
// next certificates would, an issuer that gives shorter lives than the spec asks
// for, a new pair that was not taken, keys of an issuer that this host had
// before, a clock by which things are issued though it is wrong. They are in the
// order of the CAs, the certificates' names, the keys, the clock.
func Alarms(have, want State, now time.Time) []Alarm {
	d := differ{have: have, want: want, now: now}
	var list []Alarm
	for _, t := range want.Trust {
		if a, ok := d.authorityAlarm(t.CA); ok {
			list = append(list, a)
		}
	}
	for _, w := range want.Certificates {
		if text := d.shortLife(w.Request); text != "" {
			list = append(list, Alarm{Text: text})
		}
		if text := d.notTaken(w.Request); text != "" {
			list = append(list, Alarm{Text: text, Now: true})
		}
	}
	if a, ok := leftAlarm(have, want); ok {
		list = append(list, a)
	}
	if text := have.Clock.warning(now, have.newest()); text != "" {
		list = append(list, Alarm{Text: text})
	}
	return list
}

// authorityAlarm tells whether a CA will end before a certificate that it must
// sign soon would. Vault then signs none at all; the local issuer shorter ones.
// An authority of this host that is renewed by itself gives no alarm.
func (d *differ) authorityAlarm(ca string) (Alarm, bool) {
	end := d.signerEnd(ca)
	if end.IsZero() {
		return Alarm{}, false
	}
	own := d.want.authority(ca)
	if own != nil && d.renewsInTime(own) {
		return Alarm{}, false
	}
	for _, w := range d.want.Certificates {
		if w.CA != ca {
			continue
		}
		next := d.now.Add(min(alarmMargin, w.Lifetime))
		if f := d.have.Pair(w.Name); f.Condition == Sound && renewAt(w.Request, f).After(next) {
			next = renewAt(w.Request, f)
		}
		last := end.Add(-w.Lifetime) // when a whole lifetime can last be signed
		if !last.Before(next) {
			continue
		}
		remedy := "change it with nodeagent certs rotate-ca " + ca
		if own != nil {
			remedy += ", or make pki.ca_lifetime longer than twice pki.lifetime"
		}
		if now := !d.now.Before(last); now {
			return Alarm{Now: true, Text: fmt.Sprintf("the authority %s ends on %s, too soon to sign for the %s of %s: %s",
				ca, date(end), span(w.Lifetime), w.Name, remedy)}, true
		}
		return Alarm{Text: fmt.Sprintf("the authority %s ends on %s: in %s it can no longer sign for the %s of %s: %s",
			ca, date(end), span(last.Sub(d.now)), span(w.Lifetime), w.Name, remedy)}, true
	}
	return Alarm{}, false
}

// renewsInTime tells whether this host renews its authority before leaves get
// short lives.
func (d *differ) renewsInTime(want *Authority) bool {
	have := d.have.authority(want.Name)
	if have == nil || have.NotAfter.IsZero() {
		return true // it is made
	}
	if job, _ := authorityWork(have, *want, d.now); job == authorityMend {
		return false
	}
	renewed := authorityRenewAt(have, *want)
	for _, w := range d.want.Certificates {
		if w.CA == want.Name && renewed.After(have.NotAfter.Add(-w.Lifetime).Add(lifetimeSlack)) {
			return false
		}
	}
	return true
}

// signerEnd is when the authority ends that signs for a CA now, or one between
// it and the leaves; the zero time where that is not known.
func (d *differ) signerEnd(ca string) time.Time {
	var end time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (end.IsZero() || t.Before(end)) {
			end = t
		}
	}
	b := d.have.bundle(ca)
	if b == nil || b.Condition != Sound {
		return end
	}
	sooner(b.SignerEnd)
	for _, w := range d.want.Certificates {
		f := d.have.Pair(w.Name)
		if w.CA == ca && f.Condition == Sound && len(b.KeyIDs) > 0 && f.SignedBy == b.KeyIDs[0] {
			sooner(f.ChainEnd)
		}
	}
	return end
}

// shortLife says that a certificate lives much shorter than was asked for,
// other than because its authority ends: what the issuer will not sign. It is
// used all the same, and renewed when a third of its life is left.
func (d *differ) shortLife(want Request) string {
	f := d.have.Pair(want.Name)
	life := f.NotAfter.Sub(f.NotBefore)
	if f.Condition != Sound || life >= want.Lifetime || f.NotAfter.Equal(d.signerEnd(want.CA)) {
		return ""
	}
	if have := d.have.certificate(want.Name); mismatch(want, have.Request) != "" {
		return "" // it is of another spec, and is issued again
	}
	return fmt.Sprintf("the issuer gave %s a life of %s, the spec asks for %s: nodeagent pki check tells why", want.Name, span(life), span(want.Lifetime))
}

// notTaken says that the last new pair of a certificate was refused and that the
// one before it is in use.
func (d *differ) notTaken(want Request) string {
	f := d.have.Pair(want.Name)
	if r := f.Refused; f.Condition == Sound && r != nil && r.NotBefore.After(f.NotBefore) {
		return fmt.Sprintf("the new pair of %s was not taken on %s (%s); the one before is in use and ends on %s: see to who refuses it, then nodeagent certs renew %s",
			want.Name, date(r.At), r.Reason, date(f.NotAfter), want.Name)
	}
	return ""
}

// Survival is until when a host's components can go on if nothing is issued any
// more, and the certificate that ends first. The zero time says that there is
// one missing already. The administrator's is not counted: it is short for other
// reasons, and no component needs it.
func Survival(have, want State, now time.Time) (until time.Time, first string) {
	for _, w := range want.Certificates {
		if w.Name == layout.CertAdmin {
			continue
		}
		c := have.certificate(w.Name)
		if !c.usable(now) {
			return time.Time{}, w.Name
		}
		if until.IsZero() || c.Found.NotAfter.Before(until) {
			until, first = c.Found.NotAfter, w.Name
		}
	}
	return until, first
}
