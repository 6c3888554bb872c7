package pki

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// Diff returns the changes that lead from have to want at the moment now:
// modes first, so that nothing stays readable for longer than it must, then
// authorities and trust bundles, keys, certificates, and at last what is no
// longer wanted. It is pure and its order is the same for the same values.
//
// All changes are quiet or reloads in themselves: components read renewed
// pairs by themselves; those that read a bundle or the service account key only
// when they start are restarted by the units domain, which sees that their
// inputs changed (see [Inputs]).
func Diff(have, want State, now time.Time) []plan.Change {
	d := differ{have: have, want: want, now: now}
	return d.diff()
}

// differ gathers changes.
type differ struct {
	have, want State
	now        time.Time
	anchors    map[string]anchor
	changes    []plan.Change
}

func (d *differ) diff() []plan.Change {
	d.modes()
	d.caKeys()
	d.authorities()
	d.trust()
	d.keys()
	d.certificates()
	d.unwanted()
	d.leftovers()
	return d.changes
}

func (d *differ) add(key string, action plan.Action, effect plan.Effect, reason, before, after string, payload op) {
	d.changes = append(d.changes, plan.Change{
		Domain: Domain, Key: key, Action: action, Effect: effect,
		Reason: reason, Before: before, After: after, Payload: payload,
	})
}

func (d *differ) modes() {
	for _, m := range d.have.Modes {
		d.add("mode "+m.Path, plan.ActionUpdate, plan.Quiet, m.reason(), m.before(), m.after(), modeOp{m})
	}
}

// anchor is what the leaves of one CA are checked against once the changes are
// carried out.
type anchor struct {
	known  bool      // false: nothing is known until it is fetched
	keys   []string  // key ids that a chain may lead to, that of who signs now first
	end    time.Time // of the authority; zero where not known or just renewed
	bundle string    // digest of the bundle; empty where it is about to change
	anew   bool      // a new authority is made
}

// anchor decides which authority a CA's leaves belong to.
func (d *differ) anchor(ca string) anchor {
	if a, ok := d.anchors[ca]; ok {
		return a
	}
	if d.anchors == nil {
		d.anchors = map[string]anchor{}
	}
	a := d.findAnchor(ca)
	d.anchors[ca] = a
	return a
}

func (d *differ) findAnchor(ca string) anchor {
	if want := d.want.authority(ca); want != nil {
		have := d.have.authority(ca)
		job, _, held := d.authorityWork(have, *want)
		if held.why != "" && job == authorityRenew {
			job = authorityKeep
		}
		switch job {
		case authorityMake:
			return anchor{anew: true}
		case authorityComplete, authorityRenew:
			if have.KeyID != "" {
				return anchor{known: true, keys: []string{have.KeyID}}
			}
			// Only the bundle tells whose key it is that lies there encrypted.
			if b := d.have.bundle(ca); b != nil && b.Condition == Sound {
				return anchor{known: true, keys: b.KeyIDs}
			}
			return anchor{}
		case authorityKeep:
			return anchor{known: true, keys: []string{have.KeyID}, end: have.NotAfter, bundle: have.Bundle}
		}
		// To be mended by a person: the trust bundle is all there is to go by.
	}
	if b := d.have.bundle(ca); b != nil && b.Condition == Sound {
		return anchor{known: true, keys: b.KeyIDs, end: b.NotAfter, bundle: b.Digest}
	}
	return anchor{}
}

func (d *differ) authorities() {
	for _, want := range d.want.Authorities {
		have := d.have.authority(want.Name)
		key := "authority " + want.Name
		before, after := describeAuthority(have), describeWantedAuthority(want, d.now)
		job, reason, held := d.authorityWork(have, want)
		if held.why != "" {
			reason += "; " + held.why
			d.add(key, plan.ActionIssue, plan.Quiet, reason, before, after, heldOp{reason, held.why})
			continue
		}
		switch job {
		case authorityMake, authorityComplete:
			d.add(key, plan.ActionIssue, plan.Quiet, reason, before, after, authorityOp{want})
		case authorityRenew:
			d.add(key, plan.ActionRenew, plan.Quiet, reason+"; the key stays, so that what it signed stays valid", before, after, authorityOp{want})
		case authorityMend:
			d.add(key, plan.ActionIssue, plan.Quiet, reason+"; a person must mend it", before, after, authorityOp{want})
		}
	}
}

// holding is what an authority waits for, and until when at the latest; the zero
// value where it does not wait.
type holding struct {
	why   string
	until time.Time
}

// authorityWork is authorityWork by the clock's leave: held says why nothing is
// issued yet to an authority that cannot go on as it is. One that can is kept,
// until then as well.
func (d *differ) authorityWork(have *Authority, want Authority) (job authorityJob, reason string, held holding) {
	job, reason = authorityWork(have, want, d.now)
	if job == authorityKeep || job == authorityMend {
		return job, reason, holding{}
	}
	why, left := d.have.Clock.holds(d.now, d.have.newest(), job == authorityRenew)
	if why == "" {
		return job, reason, holding{}
	}
	held.until = d.now.Add(left)
	if job == authorityRenew && !d.now.Before(have.NotBefore) && d.now.Before(have.NotAfter) {
		return authorityKeep, "", held
	}
	held.why = why
	return job, reason, held
}

func (d *differ) trust() {
	for _, want := range d.want.Trust {
		have := d.have.bundle(want.CA)
		action, effect, reason := d.trustWork(have, want)
		if reason != "" {
			d.add("trust "+want.CA, action, effect, reason, describeBundle(have), "certificate of the authority "+want.CA, trustOp{want.CA})
		}
	}
}

// trustWork decides what is to be done with a bundle. With the local issuer it
// is the authority's certificate; of other issuers' bundles only they know.
func (d *differ) trustWork(have *Bundle, want Bundle) (plan.Action, plan.Effect, string) {
	const restarted = "; units that read it only when they start are restarted with the units"
	switch {
	case have == nil:
		return plan.ActionCreate, plan.Quiet, "the trust bundle is missing"
	case have.Condition == Damaged:
		return plan.ActionUpdate, plan.Reload, "the trust bundle " + have.Problem + restarted
	case d.want.authority(want.CA) == nil:
		return "", 0, ""
	}
	switch a := d.anchor(want.CA); {
	case a.anew:
		return plan.ActionUpdate, plan.Reload, "the authority is made anew" + restarted
	case a.bundle == "":
		return plan.ActionUpdate, plan.Reload, "the authority gets a new certificate" + restarted
	case a.bundle != have.Digest:
		return plan.ActionUpdate, plan.Reload, "the trust bundle is not the authority's certificate" + restarted
	}
	return "", 0, ""
}

// trustChanges tells whether a CA's bundle is about to be written.
func (d *differ) trustChanges(ca string) bool {
	_, _, reason := d.trustWork(d.have.bundle(ca), Bundle{CA: ca})
	return reason != ""
}

func (d *differ) keys() {
	for _, want := range d.want.Keys {
		action, reason := keyWork(d.have.key(want.Name), want.Name, d.have.EtcdData)
		if reason != "" {
			d.add("key "+want.Name, action, plan.Quiet, reason, describeKey(d.have.key(want.Name)), keyPurpose[want.Name], keyOp{want.Name})
		}
	}
}

func (d *differ) certificates() {
	for _, want := range d.want.Certificates {
		have := d.have.certificate(want.Name)
		v := d.judge(have, want.Request)
		key, before := "certificate "+want.Name, describeFound(have)
		switch {
		case !v.until.IsZero() && have.usable(d.now):
			// It goes on with what it has.
		case !v.until.IsZero():
			d.add(key, v.action, plan.Quiet, v.reason, before, describeWanted(want.Request), heldOp{v.reason, v.why})
		case v.action == plan.ActionIssue, v.action == plan.ActionRenew:
			d.add(key, v.action, plan.Quiet, v.reason, before, describeWanted(want.Request), issueOp{want.Request, d.want})
		case v.action == plan.ActionUpdate:
			d.add(key, v.action, plan.Quiet, v.reason, before, before, rebundleOp{want.Request})
		}
	}
}

// unwanted removes certificates and bundles that no role asks for any more.
// Authorities and keys stay: what they protect may outlive the role.
func (d *differ) unwanted() {
	for _, have := range d.have.Certificates {
		if d.want.certificate(have.Name) == nil {
			d.add("certificate "+have.Name, plan.ActionDelete, plan.Quiet, "no role of this host asks for it", describeFound(&have), "", removeOp{have.Name})
		}
	}
	for _, have := range d.have.Trust {
		if d.want.bundle(have.CA) == nil {
			d.add("trust "+have.CA, plan.ActionDelete, plan.Quiet, "no role of this host asks for it", describeBundle(&have), "", untrustOp{have.CA})
		}
	}
}

// leftovers clears away what an interrupted run left and no other change does.
// Until old generations are gone, components that watch them have not noticed
// the switch.
func (d *differ) leftovers() {
	const reason = "an interrupted run left it"
	clean := func(key, dir string, names []string) {
		touched := slices.ContainsFunc(d.changes, func(c plan.Change) bool { return c.Key == key })
		if len(names) > 0 && !touched {
			d.add("leftovers of "+key, plan.ActionDelete, plan.Quiet, reason, lines(names), "", cleanOp{dir})
		}
	}
	for _, k := range d.have.Keys {
		clean("key "+k.Name, filepath.Join("keys", k.Name), k.Leftovers)
	}
	for _, c := range d.have.Certificates {
		clean("certificate "+c.Name, filepath.Join("certs", c.Name), c.Found.Leftovers)
	}
	for _, path := range d.have.Leftovers {
		d.add("leftover "+path, plan.ActionDelete, plan.Quiet, reason, filepath.Base(path), "", eraseOp{path})
	}
}
