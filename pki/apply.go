package pki

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Applier carries changes out.
type Applier struct {
	Root layout.Root
	// Issuer is asked for, once, when something must be issued. Planning and
	// observing need none.
	Issuer func(context.Context) (Issuer, error)
	// Keys opens the keys of the local issuer's authorities where they are
	// encrypted, or are to be; nil elsewhere.
	Keys *Keyring
	// Now is time.Now where nil.
	Now func() time.Time
	// DataExists tells whether etcd holds data that an encryption key may have
	// encrypted. Where nil, etcd's data folder on this host is looked at.
	DataExists func() (bool, error)

	// step is called at every point at which a crash leaves another state on
	// disk; tests kill the process there.
	step func(name string)
}

// Apply carries out changes of Diff in their order, several at once where that
// does not matter (see [each]), goes on past those that fail and returns all
// failures. Killed at any point, the next Observe, Diff and Apply complete the
// work: each certificate has a folder of its own, which nothing else writes to.
func (a *Applier) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	r := &run{Applier: a, disk: disk{oneAtATime(a.step)}}
	ctx, stop := context.WithCancel(ctx)
	var ready sync.WaitGroup
	if slices.ContainsFunc(changes, func(c plan.Change) bool { return groupOf(c) == needsLogin }) {
		ready.Go(func() { r.ready(ctx) })
	}
	defer ready.Wait()
	defer stop()
	return r.applyUnlocked(ctx, changes, rep, func(ctx context.Context, c plan.Change) error {
		o, ok := c.Payload.(op)
		if !ok {
			return fmt.Errorf("change of domain %q was not made by Diff of package pki", c.Domain)
		}
		return o.apply(ctx, r)
	})
}

// run is one Apply.
type run struct {
	*Applier
	disk disk

	mu     sync.Mutex
	issuer Issuer // a gently; nil until it is needed
}

// oneAtATime lets one goroutine at a time call step.
func oneAtATime(step func(string)) func(string) {
	if step == nil {
		return nil
	}
	var mu sync.Mutex
	return func(name string) {
		mu.Lock()
		defer mu.Unlock()
		step(name)
	}
}

// open opens the issuer when it is first needed.
func (r *run) open(ctx context.Context) (Issuer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.issuer == nil {
		issuer, err := r.Issuer(ctx)
		if err != nil {
			return nil, err
		}
		r.issuer = askGently(issuer)
	}
	return r.issuer, nil
}

// ready has the issuer log in, where it does that, while what needs no login is
// under way. What fails is met again by the change that needs it.
func (r *run) ready(ctx context.Context) {
	issuer, err := r.open(ctx)
	if err != nil {
		return
	}
	if i, ok := issuer.(gently).Issuer.(interface{ Ready(context.Context) error }); ok {
		_ = i.Ready(ctx)
	}
}

func (r *run) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

func (r *run) dataExists() (bool, error) {
	if r.DataExists == nil {
		return etcdData(r.Root)
	}
	return r.DataExists()
}

func (r *run) certificateFolder(name string) string {
	return filepath.Dir(r.Root.Certificate(name).Dir)
}

// op is the Payload of every change of this package.
type op interface {
	apply(ctx context.Context, r *run) error
}

type (
	modeOp      struct{ mode Mode }
	authorityOp struct{ want Authority }
	trustOp     struct{ ca string }
	keyOp       struct{ name string }
	issueOp     struct {
		want Request
		all  State // that the request is of
	}
	heldOp     struct{ reason, why string } // what is not done now; see [HeldError]
	rebundleOp struct{ want Request }
	removeOp   struct{ name string }
	untrustOp  struct{ ca string }
	cleanOp    struct{ dir string } // below layout.Root.PKI
	eraseOp    struct{ path string }
)

func (o modeOp) apply(_ context.Context, r *run) error {
	// The owner first: changing it clears nothing here, and a mode may only be
	// changed by the owner.
	if o.mode.Foreign {
		if err := os.Lchown(o.mode.Path, os.Geteuid(), os.Getegid()); err != nil {
			return err
		}
	}
	if err := os.Chmod(o.mode.Path, o.mode.Want); err != nil {
		return err
	}
	r.disk.did("mode changed")
	return atomicfile.SyncDir(filepath.Dir(o.mode.Path))
}

func (o authorityOp) apply(ctx context.Context, r *run) error {
	return makeAuthority(ctx, r.disk, r.Root, r.Keys, o.want, r.now())
}

func (o trustOp) apply(ctx context.Context, r *run) error {
	issuer, err := r.open(ctx)
	if err != nil {
		return err
	}
	content, err := issuer.Bundle(ctx, o.ca)
	if err != nil {
		return err
	}
	if _, err := parseBundle(content); err != nil {
		return fmt.Errorf("the issuer's trust bundle %w", err)
	}
	path := r.Root.Trust(o.ca)
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(path, content, 0o644); err != nil {
		return err
	}
	r.disk.did("trust bundle written")
	return nil
}

func (o keyOp) apply(ctx context.Context, r *run) error {
	return makeKey(ctx, r.disk, r.Root, o.name, r.open, r.dataExists)
}

func (o issueOp) apply(ctx context.Context, r *run) error {
	issuer, err := r.open(ctx)
	if err != nil {
		return err
	}
	bundle, err := readFile(r.Root.Trust(o.want.CA))
	if err != nil {
		return fmt.Errorf("read trust bundle: %w", err)
	}
	p, err := issue(ctx, issuer, o.want, bundle.content, r.now())
	if reason := unfit(err); reason != "" {
		return errors.Join(err, r.noteUnfit(o.want, digest(bundle.content), reason))
	}
	if err != nil {
		return err
	}
	if err := r.publish(o.want, p); err != nil {
		return err
	}
	return r.noteUnfit(o.want, digest(bundle.content), r.faultOf(ctx, o.all, o.want))
}

// apply of heldOp does nothing, and says so: a host without the certificate has
// not converged.
func (o heldOp) apply(context.Context, *run) error { return &HeldError{o.reason, o.why} }

// apply of rebundleOp switches to a generation with the same key and
// certificate and the trust bundle as it is now.
func (o rebundleOp) apply(_ context.Context, r *run) error {
	at := r.Root.Certificate(o.want.Name)
	var p pair
	for path, content := range map[string]*[]byte{at.Key: &p.key, at.Cert: &p.chain, r.Root.Trust(o.want.CA): &p.bundle} {
		f, err := readFile(path)
		if err != nil {
			return err
		}
		*content = f.content
	}
	return r.publish(o.want, p)
}

// publish switches to the pair, read back from disk and checked once more.
func (r *run) publish(want Request, p pair) error {
	at := r.Root.Certificate(want.Name)
	dir := r.certificateFolder(want.Name)
	files := []file{
		{filepath.Base(at.Key), p.key, 0o600},
		{filepath.Base(at.Cert), p.chain, 0o644},
		{filepath.Base(at.CA), p.bundle, 0o644},
	}
	keep := newObserver(r.Root).certificate(want.Name).Found.Condition == Sound
	return r.disk.publish(dir, files, keep, func(generation string) error {
		if err := sameFiles(generation, files); err != nil {
			return err
		}
		return p.check(want, r.now())
	})
}

func (o removeOp) apply(_ context.Context, r *run) error {
	return r.disk.remove(r.certificateFolder(o.name))
}

func (o untrustOp) apply(_ context.Context, r *run) error {
	return atomicfile.Remove(r.Root.Trust(o.ca))
}

func (o cleanOp) apply(_ context.Context, r *run) error {
	return r.disk.clean(filepath.Join(r.Root.PKI(), o.dir))
}

func (o eraseOp) apply(_ context.Context, _ *run) error {
	if err := os.RemoveAll(o.path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(o.path))
}
