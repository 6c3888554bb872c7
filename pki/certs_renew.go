package pki

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Renewal issues certificates anew although they are not due, because a person
// says so.
type Renewal struct {
	Applier *Applier
	Want    State
	// Prove makes the host's components use what lies on disk and answers nil
	// when they do.
	Prove func(context.Context) error
	// Revoke makes the issuer list a certificate of a CA as revoked; chain and
	// key are PEM. It is nil where the issuer keeps no such list.
	Revoke func(ctx context.Context, ca string, chain, key []byte) error
}

// Renewed is what became of one certificate.
type Renewed struct {
	Name string `json:"name"`
	CA   string `json:"ca"`
	// Before and Serial are the serial numbers of the pair that was in use, and
	// of that which is.
	Before   string    `json:"before"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	// Proven tells that another pair than before is in use, by all who use it.
	Proven bool `json:"proven"`
	// Revoked are the serial numbers of earlier pairs that were revoked, and
	// RevokedEnds is the latest end of them.
	Revoked     []string  `json:"revoked"`
	RevokedEnds time.Time `json:"revoked_ends,omitzero"`
}

// ErrNoRevocation is the error of a revocation that the issuer does not know.
var ErrNoRevocation = errors.New("the issuer keeps no list of revoked certificates")

// Run issues the named certificates, has them proven, and with revoke revokes
// the pairs before them. It checks first that all of that can be asked for.
//
// What is to be revoked is noted before anything is issued: cut off, the same
// call goes on from there, and issues none of those again whose note says that
// it was. Nothing is revoked that was not proven to be out of use.
func (r *Renewal) Run(ctx context.Context, names []string, revoke bool, rep plan.Reporter) ([]Renewed, error) {
	have, err := Observe(ctx, r.Applier.Root)
	if err != nil {
		return nil, err
	}
	if err := r.check(have, names, revoke); err != nil {
		return nil, err
	}
	issue, err := r.note(have, names, revoke)
	if err != nil {
		return nil, err
	}
	issueErr := r.Applier.Apply(ctx, Renew(r.Want, issue, "asked for by a person"), rep)
	proveErr := r.Prove(ctx)
	after, err := Observe(ctx, r.Applier.Root)
	if err != nil {
		return nil, errors.Join(issueErr, proveErr, err)
	}
	var list []Renewed
	var revokeErrs []error
	for _, name := range names {
		one := r.renewed(have, after, name, !slices.Contains(issue, name))
		one.Proven = one.Proven && proveErr == nil
		if revoke && one.Proven {
			revokeErrs = append(revokeErrs, r.revoke(ctx, &one))
		}
		list = append(list, one)
	}
	return list, errors.Join(append([]error{issueErr, proveErr}, revokeErrs...)...)
}

// check refuses what cannot be done before anything is done.
func (r *Renewal) check(have State, names []string, revoke bool) error {
	var failed []error
	for _, name := range names {
		switch f := have.Pair(name); {
		case r.Want.certificate(name) == nil:
			failed = append(failed, fmt.Errorf("renew certificate %q: this host wants none of that name", name))
		case f.Condition == Missing:
			failed = append(failed, fmt.Errorf("renew certificate %q: there is none yet: nodeagent apply issues it", name))
		case revoke && f.Condition != Sound:
			failed = append(failed, fmt.Errorf("revoke certificate %q: %s, and without its key it cannot be revoked: renew it alone", name, f.Problem))
		}
	}
	if revoke && r.Revoke == nil {
		failed = append(failed, fmt.Errorf("revoke %s: %w", strings.Join(names, ", "), ErrNoRevocation))
	}
	return errors.Join(failed...)
}

// note keeps what is to be revoked and returns the names that are to be issued:
// all but those that an interrupted run has issued already.
func (r *Renewal) note(have State, names []string, revoke bool) ([]string, error) {
	if !revoke {
		return names, nil
	}
	owed, err := owedRevocations(r.Applier.Root)
	if err != nil {
		return nil, err
	}
	var issue []string
	for _, name := range names {
		f := have.Pair(name)
		if slices.ContainsFunc(owed, func(o owedRevocation) bool { return o.Name == name && o.Serial != f.Serial }) {
			continue
		}
		issue = append(issue, name)
		if err := owe(r.Applier.Root, r.Want.certificate(name).Request, f, r.now()); err != nil {
			return nil, err
		}
		disk{r.Applier.step}.did("revocation noted")
	}
	return issue, nil
}

// renewed compares a certificate before and after. done tells that an
// interrupted run had issued it before.
func (r *Renewal) renewed(before, after State, name string, done bool) Renewed {
	b, a := before.Pair(name), after.Pair(name)
	return Renewed{
		Name: name, CA: r.Want.certificate(name).CA, Before: b.Serial, Serial: a.Serial, NotAfter: a.NotAfter,
		Proven: a.Condition == Sound && (done || a.Serial != b.Serial), Revoked: []string{},
	}
}

// revoke revokes all earlier pairs of a certificate that are noted. The pair
// before the one in use is forgotten, since it must not be put back; so is the
// note, at last.
func (r *Renewal) revoke(ctx context.Context, one *Renewed) error {
	owed, err := owedRevocations(r.Applier.Root)
	if err != nil {
		return err
	}
	d := disk{r.Applier.step}
	for _, o := range owed {
		if o.Name != one.Name || o.Serial == one.Serial {
			continue
		}
		dir := filepath.Dir(r.Applier.Root.Certificate(o.Name).Dir)
		d.did("proven")
		if err := errors.Join(moveAway(dir, filepath.Join(dir, previousFolder)), d.clean(dir)); err != nil {
			return fmt.Errorf("forget the earlier pair of certificate %q: %w", o.Name, err)
		}
		if r.now().Before(o.NotAfter) { // else no list has it
			if err := r.Revoke(ctx, o.CA, o.Chain, o.Key); err != nil {
				return fmt.Errorf("revoke serial %s of certificate %q, which is not in use any more: %w", o.Serial, o.Name, err)
			}
			d.did("revoked")
		}
		if err := atomicfile.Remove(o.file(r.Applier.Root)); err != nil {
			return err
		}
		d.did("revocation forgotten")
		one.Revoked = append(one.Revoked, o.Serial)
		if o.NotAfter.After(one.RevokedEnds) {
			one.RevokedEnds = o.NotAfter
		}
	}
	return nil
}

func (r *Renewal) now() time.Time {
	if r.Applier.Now == nil {
		return time.Now()
	}
	return r.Applier.Now()
}

// Renew returns the changes that issue wanted certificates anew, whatever lies on
// disk, by the trust bundles that lie there.
func Renew(want State, names []string, reason string) []plan.Change {
	var changes []plan.Change
	for _, name := range names {
		for _, c := range Obtain(want, name, reason) {
			if c.Key == "certificate "+name {
				c.Action = plan.ActionRenew
				changes = append(changes, c)
			}
		}
	}
	return changes
}
