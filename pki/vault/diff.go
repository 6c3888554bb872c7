package vault

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// Domain is the name of this domain in plans.
const Domain = "vault"

// edit is what Apply needs of a change: one of the three.
type edit struct {
	object    *Object      // as wanted, or as it is where it goes
	authority *Authority   // as wanted
	secret    *pki.HeldKey // to be written
	engine    string       // of the secret
}

// mount is the engine or method that it is about, as plans name it; empty for a
// policy.
func (e edit) mount() string {
	switch {
	case e.authority != nil:
		return "engine " + e.authority.Engine
	case e.secret != nil:
		return "engine " + e.engine
	case e.object.Kind == KindMethod || e.object.Kind == KindLogin:
		return "method " + e.object.Mount
	case e.object.Mount == "":
		return ""
	}
	return "engine " + e.object.Mount
}

// Diff answers what makes Vault be as wanted, in the order in which it can be
// made. It is pure. Engines, methods and authorities are made and set right,
// and never removed or replaced.
func Diff(have, want State) []plan.Change {
	d := differ{have: have, want: want}
	for _, o := range want.Objects {
		if o.Kind == KindTidy {
			continue // behind its engine's authority
		}
		d.object(o)
		if a := d.authorityOf(o); a != nil {
			d.authority(*a)
			d.object(Object{Kind: KindTidy, Mount: o.Mount})
		}
		if o.Kind == KindSettings { // before any host can log in and make others
			d.secrets()
		}
	}
	for i := len(have.Objects) - 1; i >= 0; i-- { // logins before the policies that they give
		d.leftover(have.Objects[i])
	}
	return d.changes
}

type differ struct {
	have, want State
	changes    []plan.Change
}

func (d *differ) add(c plan.Change) {
	c.Domain = Domain
	d.changes = append(d.changes, c)
}

func (d *differ) authorityOf(o Object) *Authority {
	for i := range d.want.Authorities {
		if o.Kind == KindEngine && d.want.Authorities[i].Engine == o.Mount {
			return &d.want.Authorities[i]
		}
	}
	return nil
}

// object compares one wanted object with what is there.
func (d *differ) object(like Object) {
	o := d.want.object(like)
	if o == nil {
		return
	}
	want := *o
	if want.Fields["certificate"] == loginAuthority {
		certificate := d.loginCertificate()
		if certificate == "" {
			return // cert auth takes no role without one
		}
		want.Fields = with(want.Fields, "certificate", certificate)
	}
	have := d.have.object(want)
	if have == nil {
		d.add(plan.Change{
			Key: want.Key(), Action: plan.ActionCreate, Reason: "it is missing", After: describe(want), Payload: edit{object: &want},
		})
		return
	}
	names := have.Fields.differing(want.Fields)
	if len(names) == 0 {
		return
	}
	change := plan.Change{
		Key: want.Key(), Action: plan.ActionUpdate, Payload: edit{object: &want},
		Reason: "not as the fleet says: " + strings.Join(names, ", "),
	}
	change.Before, change.After = difference(have.Fields, want.Fields, names)
	d.add(change)
}

// loginCertificate is what cert auth is to trust: what the authority has, or is
// given by a change before; empty where it will still have none.
func (d *differ) loginCertificate() string {
	have, want := d.have.authority(loginAuthority), d.want.authority(loginAuthority)
	switch {
	case have != nil && len(have.Issuers) > 0:
		return fingerprint(have.bundle())
	case want == nil || have != nil && have.Condition == Waiting && want.Signed == "" || want.Offline && want.Signed == "":
		return ""
	}
	return "of the authority " + loginAuthority
}

// authority makes one that is not there. One that is there, whatever its
// condition, is a person's to change.
func (d *differ) authority(want Authority) {
	condition := Absent
	if have := d.have.authority(want.Name); have != nil {
		condition = have.Condition
	}
	change := plan.Change{Key: "authority " + want.Engine, Payload: edit{authority: &want}}
	subject := fmt.Sprintf("subject: CN=%s, O=%s", want.Name, want.Cluster)
	switch {
	case condition == Absent && want.Adopted != nil:
		c := want.Adopted.Certificate
		change.Action, change.Reason = plan.ActionCreate, "the engine has none; it goes on as the local issuer's, which the hosts trust already"
		change.After = fmt.Sprintf("subject: %s\nvalid: until %s\nkey: %s, imported from a host", c.Subject, date(c.NotAfter), pki.KeyID(c)[:shownID])
	case condition == Absent && !want.Offline:
		change.Action, change.Reason = plan.ActionCreate, "the engine has none"
		change.After = fmt.Sprintf("%s\nroot: made in Vault, lives %s\nkey: ecdsa-p256, never leaves Vault", subject, want.Lifetime)
	case condition == Absent:
		change.Action, change.Reason = plan.ActionCreate, "the engine has none; its certificate is signed elsewhere"
		change.After = subject + "\nkey: ecdsa-p256, never leaves Vault; waits for its certificate"
	case condition == Waiting && want.Signed != "":
		change.Action, change.Reason = plan.ActionIssue, "its certificate was signed elsewhere"
		change.After = "certificate: " + plan.Fingerprint([]byte(want.Signed))
	default:
		return
	}
	d.add(change)
}

// shownID is how much of a key's id plans show.
const shownID = len("sha256:") + 12

// secrets writes what the cluster's components use already.
func (d *differ) secrets() {
	for _, k := range d.want.Adopted {
		ids, err := pki.KeyIDs(k.Name, k.Content)
		if err != nil {
			continue // Adopt has read them
		}
		shown := make([]string, len(ids))
		for i, id := range ids {
			shown[i] = id[:min(len(id), shownID)]
		}
		d.add(plan.Change{
			Key: "secret " + d.want.Place.Secrets() + "/" + k.Name, Action: plan.ActionCreate,
			Reason: "there is none; it goes on as the one that the cluster uses already", After: "keys: " + strings.Join(shown, ", "),
			Payload: edit{secret: &k, engine: d.want.Place.Secrets()},
		})
	}
}

// leftover removes what is ours by its name and wanted no more.
func (d *differ) leftover(o Object) {
	switch o.Kind {
	case KindRole, KindPolicy, KindLogin:
	default:
		return
	}
	if d.want.object(o) == nil {
		d.add(plan.Change{
			Key: o.Key(), Action: plan.ActionDelete, Reason: "no host of the fleet needs it", Before: describe(o), Payload: edit{object: &o},
		})
	}
}

// Obstacles are what keeps Vault from being made as wanted, that no plan
// removes.
func Obstacles(have, want State) []string {
	var list []string
	for _, above := range have.Above {
		list = append(list, fmt.Sprintf("%s lies above the place %s, and Vault has no mount below another one: choose another pki.vault.mount", above, have.Place))
	}
	for _, w := range want.Objects {
		h := have.object(w)
		if h == nil || w.Kind != KindEngine && w.Kind != KindMethod {
			continue
		}
		for _, field := range []string{"type", "version"} {
			if wanted, ok := w.Fields[field]; ok && h.Fields[field] != wanted {
				list = append(list, fmt.Sprintf("%s is there with %s %s, want %s: move it away, or choose another pki.vault.mount", w.Key(), field, word(h.Fields[field]), word(wanted)))
			}
		}
	}
	for _, a := range have.Authorities {
		if a.Condition == Keyless {
			list = append(list, fmt.Sprintf("authority %s cannot sign: no key of its default issuer is in Vault: set another default issuer, or import the key", a.Engine))
		}
	}
	return list
}

// Waiting are the authorities whose certificates are signed elsewhere and not
// imported yet.
func (s State) Waiting() []Authority {
	return slices.DeleteFunc(slices.Clone(s.Authorities), func(a Authority) bool { return a.Condition != Waiting })
}

func with(fields Fields, name string, value any) Fields {
	changed := make(Fields, len(fields))
	for n, v := range fields {
		changed[n] = v
	}
	changed[name] = value
	return changed
}

// describe prints an object's fields that say something, one a line.
func describe(o Object) string {
	if policy, ok := o.Fields["policy"].(string); ok {
		return policy
	}
	var lines []string
	for name, value := range o.Fields {
		switch value {
		case nil, false, int64(0):
			continue
		}
		if name == "description" {
			continue
		}
		lines = append(lines, name+": "+word(value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// difference prints the fields that differ, before and after.
func difference(have, want Fields, names []string) (before, after string) {
	if slices.Equal(names, []string{"policy"}) {
		b, _ := have["policy"].(string)
		a, _ := want["policy"].(string)
		return changedLines(b, a), changedLines(a, b)
	}
	var b, a []string
	for _, name := range names {
		b, a = append(b, name+": "+word(have[name])), append(a, name+": "+word(want[name]))
	}
	return strings.Join(b, "\n"), strings.Join(a, "\n")
}

// changedLines are the lines of a text that the other has not.
func changedLines(text, other string) string {
	known := map[string]bool{}
	for line := range strings.SplitSeq(other, "\n") {
		known[line] = true
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if !known[line] {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// method is the auth method of a login or method object.
func (o Object) method() string { return path.Base(o.Mount) }
