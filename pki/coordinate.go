package pki

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// ChangeStore remembers what changes of CAs lead to, from before the first step
// until after the last one.
type ChangeStore interface {
	// Load returns the change of a CA; nil where none is under way.
	Load(ctx context.Context, ca string) (*Change, error)
	Save(ctx context.Context, c Change) error
	Remove(ctx context.Context, ca string) error
}

// Coordinator leads the change of a CA through its steps. Several at once do
// no harm: each step is decided by what is there.
type Coordinator struct {
	Issuer Rotator
	Store  ChangeStore
	// Uses tells of every host that trusts the CA how far it has come.
	Uses func(ctx context.Context, ca string) ([]Use, error)
	// Follow makes hosts follow; nil where they do so by themselves.
	Follow func(ctx context.Context) error
	// Tell hears of each step before it is made, and of the hosts that are
	// waited for whenever these are others than before.
	Tell func(step Do, c Change, late []Use)
	// Poll is how often hosts that are waited for are looked at.
	Poll time.Duration
}

// Run changes a CA for another one, or goes on with a change that was
// interrupted; back turns it back. It returns when nothing is left to do.
func (c *Coordinator) Run(ctx context.Context, ca string, back bool) error {
	change, err := c.begin(ctx, ca, back)
	if err != nil {
		return err
	}
	var told string
	for {
		step, late, err := c.next(ctx, change)
		if err != nil {
			return err
		}
		if now := fmt.Sprint(step, late); now != told {
			c.Tell(step, *change, late)
			told = now
		}
		if step == DoNothing {
			return c.Store.Remove(ctx, ca)
		}
		if err := c.do(ctx, step, change); err != nil {
			return err
		}
	}
}

// begin loads the change, or remembers a new one. Where nothing is remembered
// and two authorities are there, an earlier one added the second and was killed
// before it could say so, or a person has added it: it is the one to change to.
func (c *Coordinator) begin(ctx context.Context, ca string, back bool) (*Change, error) {
	change, err := c.Store.Load(ctx, ca)
	if err != nil {
		return nil, err
	}
	have, err := c.Issuer.Authorities(ctx, ca)
	if err != nil {
		return nil, err
	}
	if change == nil && back {
		return nil, fmt.Errorf("turn back the change of CA %q: none is under way", ca)
	}
	if change == nil {
		change = &Change{CA: ca, Old: KeyID(have[0])}
	}
	for _, a := range have {
		if id := KeyID(a); change.New == "" && id != change.Old {
			change.New = id
		}
	}
	if back && !slices.ContainsFunc(have, func(a *x509.Certificate) bool { return KeyID(a) == change.Old }) {
		return nil, fmt.Errorf("turn back the change of CA %q: the old authority is dropped already: change it once more for a new one", ca)
	}
	change.Back = back || change.Back // once turned back, it stays so until that is done
	return change, c.Store.Save(ctx, *change)
}

func (c *Coordinator) next(ctx context.Context, change *Change) (Do, []Use, error) {
	have, err := c.Issuer.Authorities(ctx, change.CA)
	if err != nil {
		return 0, nil, err
	}
	uses, err := c.Uses(ctx, change.CA)
	if err != nil {
		return 0, nil, err
	}
	var list []string
	for _, a := range have {
		list = append(list, KeyID(a))
	}
	step, late := change.Next(list, uses)
	return step, late, nil
}

// do makes one step, or waits a while for hosts.
func (c *Coordinator) do(ctx context.Context, step Do, change *Change) error {
	switch step {
	case DoAdd:
		if err := c.Issuer.Add(ctx, change.CA); err != nil {
			return err
		}
		have, err := c.Issuer.Authorities(ctx, change.CA)
		if err != nil {
			return err
		}
		change.New = KeyID(have[len(have)-1])
		return c.Store.Save(ctx, *change)
	case DoSwitch:
		return c.Issuer.Switch(ctx, change.CA, change.goal())
	case DoDrop:
		return c.Issuer.Drop(ctx, change.CA, change.other())
	}
	if c.Follow != nil {
		if err := c.Follow(ctx); err != nil {
			return fmt.Errorf("follow the change of CA %q: %w; mend that, then run the command again: it goes on from here", change.CA, err)
		}
	}
	return pause(ctx, c.Poll)
}

// LocalChanges remembers changes in a folder on the host.
type LocalChanges struct{ Root layout.Root }

func (l LocalChanges) path(ca string) string {
	return filepath.Join(l.Root.Operations(), "change-"+ca+".json")
}

// Load implements ChangeStore.
func (l LocalChanges) Load(_ context.Context, ca string) (*Change, error) {
	content, err := os.ReadFile(l.path(ca))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a change of %q: %w", ca, err)
	}
	c := &Change{}
	if err := json.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.path(ca), err)
	}
	return c, nil
}

// Save implements ChangeStore.
func (l LocalChanges) Save(_ context.Context, c Change) error {
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(l.Root.Operations(), 0o700); err != nil {
		return fmt.Errorf("remember the change of %q: %w", c.CA, err)
	}
	if err := atomicfile.Write(l.path(c.CA), content, 0o600); err != nil {
		return fmt.Errorf("remember the change of %q: %w", c.CA, err)
	}
	return nil
}

// Remove implements ChangeStore.
func (l LocalChanges) Remove(_ context.Context, ca string) error {
	return atomicfile.Remove(l.path(ca))
}
