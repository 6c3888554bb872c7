package pki

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// write changes the secret.
func (r *keyRun) write(ctx context.Context, change func([]part) ([]part, error)) error {
	parts, version, err := r.read(ctx)
	if err != nil {
		return err
	}
	after, err := change(parts)
	if err != nil {
		return fmt.Errorf("change key %q: %w", r.name, err)
	}
	if slices.Equal(partIDs(after), partIDs(parts)) {
		return nil
	}
	return r.Keys.WriteKey(ctx, r.name, joinParts(r.name, after), version)
}

// add makes a second key, which is remembered before it is there: begin would
// find it, too.
func (r *keyRun) add(ctx context.Context) error {
	fresh, err := freshPart(r.name)
	if err != nil {
		return err
	}
	err = r.write(ctx, func(parts []part) ([]part, error) {
		if len(parts) > 1 { // another run was faster
			fresh = parts[1]
			return parts, nil
		}
		return append(slices.Clone(parts), fresh), nil
	})
	if err != nil {
		return err
	}
	r.change.New = fresh.id
	return r.Store.Save(ctx, *r.change)
}

// turn lets the other key sign, or encrypt. That the new one may have signed is
// remembered first.
func (r *keyRun) turn(ctx context.Context) error {
	if !r.change.Back && !r.change.Key.Signed {
		r.change.Key.Signed = true
		if err := r.Store.Save(ctx, *r.change); err != nil {
			return err
		}
	}
	return r.write(ctx, func(parts []part) ([]part, error) { return switched(parts, r.change.goal()) })
}

// stored is how etcd names the key that stays.
func (r *keyRun) stored(ctx context.Context) (string, error) {
	parts, _, err := r.read(ctx)
	if err != nil {
		return "", err
	}
	return parts[0].name, nil
}

func (r *keyRun) count(ctx context.Context) error {
	name, err := r.stored(ctx)
	if err == nil {
		r.left, err = r.Secrets.Left(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("count the Secrets that are not encrypted with the key %s: %w", r.change.goal(), err)
	}
	if r.before >= 0 && r.left >= r.before {
		return fmt.Errorf("%d Secrets are not encrypted with the key %s even after they were written anew: does an API server still use another configuration? nothing was dropped", r.left, r.change.goal())
	}
	return nil
}

func (r *keyRun) rewrite(ctx context.Context, left int) error {
	name, err := r.stored(ctx)
	if err != nil {
		return err
	}
	r.before = left
	if err := r.Secrets.Rewrite(ctx, name); err != nil {
		return fmt.Errorf("write Secrets anew: %w; mend that, then run the command again: it goes on from here", err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
