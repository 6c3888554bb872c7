package pki

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// LeftAuthority is an authority of the local issuer that lies on a host whose
// issuer is another one.
type LeftAuthority struct {
	Name string // one of the layout.CA… constants
	// Cluster is the organisation in its subject, empty where its certificate
	// cannot be read.
	Cluster string
	// KeyIDs are those of it and of the one beside it, empty for one whose
	// certificate and key cannot be read.
	KeyIDs []string
}

// LeftAuthorities reads what the local issuer has left on a host, in the order
// of layout.CAs; none where nothing lies there, or who asks may not look.
func LeftAuthorities(root layout.Root) []LeftAuthority {
	var list []LeftAuthority
	for _, ca := range layout.CAs() {
		signs, beside := readAuthorities(root, ca)
		if _, err := os.Lstat(root.LocalCA(ca)); err != nil && beside == nil {
			continue
		}
		left := LeftAuthority{Name: ca, KeyIDs: []string{signs.KeyID}}
		if c := signs.certificate; c != nil && len(c.Subject.Organization) > 0 {
			left.Cluster = c.Subject.Organization[0]
		}
		if beside != nil {
			left.KeyIDs = append(left.KeyIDs, beside.KeyID)
		}
		list = append(list, left)
	}
	return list
}

// Trusted tells whether the host trusts the authority that signs.
func (l LeftAuthority) Trusted(have State) bool {
	b := have.bundle(l.Name)
	return b != nil && slices.Contains(b.KeyIDs, l.KeyIDs[0])
}

// Shares tells whether the host trusts one of the key ids for the CA.
func (l LeftAuthority) Shares(have State, ids []string) bool {
	b := have.bundle(l.Name)
	return b != nil && overlap(b.KeyIDs, ids)
}

// Forget are the changes that remove what the local issuer has left on a host,
// keys included, for ever; and the reasons why others must stay. vouched are the
// key ids that the issuer of the spec names for each CA, asked just now. It is
// pure. An authority may go when neither this host nor the issuer trusts it any
// more: until then its key is what a lost Vault could be replaced by.
func Forget(left []LeftAuthority, have, want State, vouched map[string][]string) (changes []plan.Change, kept []string) {
	folder := filepath.Dir(layout.Root("").LocalCA("x"))
	for _, path := range have.Leftovers { // of one that was cut off in the middle of it
		if strings.HasSuffix(filepath.Dir(path), folder) {
			changes = append(changes, plan.Change{
				Domain: Domain, Key: "leftover " + path, Action: plan.ActionDelete,
				Reason: "an interrupted run left it", Before: filepath.Base(path), Payload: eraseOp{path},
			})
		}
	}
	for _, l := range left {
		if why := l.needed(have, want, vouched[l.Name]); why != "" {
			kept = append(kept, fmt.Sprintf("authority %s of the local issuer stays: %s", l.Name, why))
			continue
		}
		changes = append(changes, plan.Change{
			Domain: Domain, Key: "local authority " + l.Name, Action: plan.ActionDelete,
			Reason:  "it is trusted no more; its key is removed for ever",
			Before:  "key: " + strings.Join(shortened(l.KeyIDs), ", "),
			Payload: forgetOp{l.Name},
		})
	}
	if len(kept) == 0 && have.CAKeys.Condition != Missing {
		changes = append(changes, plan.Change{
			Domain: Domain, Key: "local keyring", Action: plan.ActionDelete,
			Reason: "no key of a CA is left that it opens", Before: "opened by: " + have.CAKeys.Protection, Payload: forgetKeyringOp{},
		})
	}
	return changes, kept
}

// needed says why an authority must stay; "" where it need not.
func (l LeftAuthority) needed(have, want State, vouched []string) string {
	bundle := have.bundle(l.Name)
	change := fmt.Sprintf("change it for one that no host has ever had: nodeagent certs rotate-ca %s", l.Name)
	switch {
	case len(want.Authorities) > 0:
		return "it is this host's issuer"
	case slices.Contains(l.KeyIDs, ""):
		return "neither its key nor its certificate can be read, so that nobody can tell whether it is trusted: remove its folder yourself"
	case len(vouched) == 0:
		return "the issuer has no CA in its place"
	case overlap(vouched, l.KeyIDs):
		return "the issuer has it among what hosts trust: " + change
	case bundle != nil && bundle.Condition == Sound && overlap(bundle.KeyIDs, l.KeyIDs):
		return "this host still trusts it: " + cmp.Or(behind(bundle.KeyIDs, vouched), change)
	case bundle != nil && bundle.Condition != Sound:
		return "this host's trust bundle " + bundle.Problem + ": run nodeagent apply"
	}
	for _, c := range have.Certificates {
		if c.Found.Condition == Sound && slices.Contains(l.KeyIDs, c.Found.SignedBy) {
			return fmt.Sprintf("the certificate %s of this host is signed by it: run nodeagent apply", c.Name)
		}
	}
	return ""
}

// behind tells of a host that has not heard of what the issuer has.
func behind(have, vouched []string) string {
	if overlap(have, vouched) {
		return "it has not heard yet that the issuer dropped it: nodeagent run follows within two minutes"
	}
	return ""
}

func shortened(ids []string) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = short(id)
	}
	return list
}

// forgetOp removes an authority of the local issuer.
type forgetOp struct{ name string }

// apply moves the folders away by one rename each, so that there is never half of
// one under its name, and then removes them.
func (o forgetOp) apply(_ context.Context, r *run) error {
	dir := filepath.Dir(r.Root.LocalCA(o.name))
	for _, path := range []string{r.Root.LocalCABeside(o.name), r.Root.LocalCA(o.name)} {
		if err := moveAway(dir, path); err != nil {
			return err
		}
		r.disk.did("local authority moved away")
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return err
	}
	if err := r.disk.clean(dir); err != nil {
		return err
	}
	return removeEmpty(r.disk, dir)
}

// forgetKeyringOp removes what opened the keys of the authorities, after these.
type forgetKeyringOp struct{}

func (forgetKeyringOp) apply(ctx context.Context, r *run) error {
	if err := (noKeyringOp{}).apply(ctx, r); err != nil {
		return err
	}
	return removeEmpty(r.disk, filepath.Dir(r.Root.LocalKeyring()))
}

// removeEmpty removes the folder of all local authorities with the last thing in
// it.
func removeEmpty(d disk, dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	d.did("local authority removed")
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// leftAlarm tells of keys of the local issuer on a host whose issuer is another.
func leftAlarm(have, want State) (Alarm, bool) {
	if want.bundle(layout.CANodeagent) == nil || len(want.Authorities) > 0 {
		return Alarm{}, false
	}
	var all, trusted []string
	for _, a := range have.Authorities {
		if a.Condition == Missing {
			continue
		}
		all = append(all, a.Name)
		if b := have.bundle(a.Name); b != nil && slices.Contains(b.KeyIDs, a.KeyID) {
			trusted = append(trusted, a.Name)
		}
	}
	switch {
	case len(all) == 0:
		return Alarm{}, false
	case len(trusted) == 0:
		return Alarm{Text: fmt.Sprintf("CA keys of the local issuer still lie on this host (%s), though nothing trusts them any more: nodeagent pki forget-local removes them", strings.Join(all, ", "))}, true
	}
	return Alarm{Text: fmt.Sprintf("CA keys of the local issuer still lie on this host (%s), and who has them can sign for this cluster: change %s for CAs whose keys no host has ever had (nodeagent certs rotate-ca NAME), then run nodeagent pki forget-local",
		strings.Join(all, ", "), strings.Join(trusted, ", "))}, true
}
