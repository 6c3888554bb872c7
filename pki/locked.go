package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// Where the keys of the local issuer's authorities cannot be opened, that is one
// error, and not one for each certificate: what needs a key is not begun. All
// else goes on.

// applyUnlocked carries changes out, less those that need a key which cannot be
// opened. That is found out once, and only if one of them does.
func (r *run) applyUnlocked(ctx context.Context, changes []plan.Change, rep plan.Reporter, do func(context.Context, plan.Change) error) error {
	first := 1 + slices.IndexFunc(changes, makesKeyring)
	before, rest := changes[:first], changes[first:]
	failed := each(ctx, before, rep, do)
	free, waiting := r.divide(rest)
	if len(waiting) > 0 && ctx.Err() == nil {
		if err := r.openFor(ctx, first > 0, waiting); err != nil {
			failed, rest = errors.Join(failed, err), free
		}
	}
	return errors.Join(failed, each(ctx, rest, rep, do))
}

// makesKeyring tells whether a change is the one before which nothing can be
// encrypted.
func makesKeyring(c plan.Change) bool { return c.Key == caKeysChange && c.Action == plan.ActionCreate }

// openFor opens the keys for those that wait.
func (r *run) openFor(ctx context.Context, made bool, waiting []plan.Change) error {
	who := fmt.Sprintf("%s %s", waiting[0].Action, waiting[0].Key)
	if others := len(waiting) - 1; others > 0 {
		who += fmt.Sprintf(" and %d more", others)
	}
	if _, err := readKeyringFile(r.Root); made && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: not begun, as that failed", who)
	}
	if _, err := r.Keys.open(ctx); err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	return nil
}

// divide tells the changes that need an encrypted key from those that do not.
func (r *run) divide(changes []plan.Change) (free, waiting []plan.Change) {
	missing := map[string]bool{} // authorities that are to be made with such a key
	for _, c := range changes {
		_, last := c.Payload.(noKeyringOp) // after the keys that are decrypted
		if last && len(waiting) > 0 || r.needsKey(c, missing) {
			waiting = append(waiting, c)
		} else {
			free = append(free, c)
		}
	}
	return free, waiting
}

func (r *run) needsKey(c plan.Change, missing map[string]bool) bool {
	switch o := c.Payload.(type) {
	case encryptOp, decryptOp:
		return true
	case authorityOp:
		a := readAuthority(r.Root.LocalCA(o.want.Name), o.want.Name)
		missing[o.want.Name] = a.Condition == Missing && o.want.Encrypted
		return a.Encrypted || missing[o.want.Name]
	case trustOp:
		return missing[o.ca]
	case issueOp:
		local := o.all.authority(o.want.CA) != nil
		return missing[o.want.CA] || local && readAuthority(r.Root.LocalCA(o.want.CA), o.want.CA).Encrypted
	}
	return false
}
