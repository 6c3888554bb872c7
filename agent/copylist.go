package agent

import (
	"context"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
)

// Listing is what one place has.
type Listing struct {
	Name    string          `json:"name"`
	Where   string          `json:"where"`
	Error   string          `json:"error,omitempty"`
	Entries []etcdops.Entry `json:"-"`
}

// List lists the snapshots of the cluster at a place, "" for every one, that of
// the host first. A place that cannot be asked has an error and no entries; the
// error is of a name that the spec does not have.
func (c *Copies) List(ctx context.Context, from string) ([]Listing, error) {
	names := append([]string{hosts.LocalCopy}, c.Names()...)
	if from != "" && from != hosts.LocalCopy {
		if _, err := c.find(from); err != nil {
			return nil, err
		}
	}
	if from != "" {
		names = []string{from}
	}
	list := make([]Listing, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { list[i] = c.list(ctx, name) })
	}
	asking.Wait()
	return list, ctx.Err()
}

func (c *Copies) list(ctx context.Context, name string) Listing {
	l := Listing{Name: name, Where: c.Where(name)}
	var err error
	if name == hosts.LocalCopy {
		l.Entries, err = etcdops.List(c.spec.Snapshots.Destination)
	} else {
		l.Entries, err = c.listPlace(ctx, name, c.spec.Cluster)
	}
	if err != nil {
		l.Error = err.Error()
	}
	return l
}

func (c *Copies) listPlace(ctx context.Context, name, dir string) ([]etcdops.Entry, error) {
	place, err := c.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	return store.Snapshots(ctx, place.Store, dir)
}

// PlanPrune is what a prune of a further place would do now.
func (c *Copies) PlanPrune(ctx context.Context, name string, now time.Time) (kept, dropped []etcdops.Decision, err error) {
	at, err := c.find(name)
	if err != nil {
		return nil, nil, err
	}
	there, err := c.listPlace(ctx, name, c.Owner().Dir())
	if err != nil {
		return nil, nil, err
	}
	kept, dropped = store.Prune(there, c.Owner(), at.Keep, now)
	return kept, dropped, nil
}
