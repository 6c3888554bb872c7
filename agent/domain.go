// Package agent puts the domains together: it plans and converges them in
// order, keeps a host converged as a daemon, and tells its status.
//
// Words: a domain is one part of the host with the verbs Want, Observe, Diff
// and Apply; a round is one pass of plan and apply over all domains; a host is
// converged when a fresh round finds nothing to do.
package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/names"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/proof"
)

// Domain is one part of the host as the agent sees it.
type Domain interface {
	// Name is the word for --only, plans and status.
	Name() string
	// Plan compares the host with its spec and writes nothing. It may return
	// changes together with an error: what could be seen, and what could not.
	// Where the error is a [BlindError] they are for showing only.
	Plan(ctx context.Context) ([]plan.Change, error)
	// Apply carries out changes that Plan returned.
	Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error
}

// BlindError wraps the error of an observation without which a domain's changes
// must not be applied: a process whose environment cannot be read, say, looks
// like one that must be restarted.
type BlindError struct{ error }

// Unwrap returns what could not be observed.
func (e BlindError) Unwrap() error { return e.error }

// verbs makes a Domain of a domain package's four functions over its state.
type verbs[S any] struct {
	name string
	// whole tells that nothing may be applied unless everything was observed.
	// The others apply what they know: a host without nf_tables still gets its
	// addresses.
	whole   bool
	want    func(ctx context.Context) (S, error)
	observe func(ctx context.Context, want S) (S, error)
	diff    func(have, want S) []plan.Change
	apply   func(ctx context.Context, changes []plan.Change, rep plan.Reporter) error
}

func (v verbs[S]) Name() string { return v.name }

func (v verbs[S]) Plan(ctx context.Context) ([]plan.Change, error) {
	want, err := v.want(ctx)
	if err != nil {
		return nil, err
	}
	have, err := v.observe(ctx, want)
	if err != nil && v.whole {
		err = BlindError{err}
	}
	return v.diff(have, want), err
}

func (v verbs[S]) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	return v.apply(ctx, changes, rep)
}

// Names of the domains in the order in which they are applied: each may build
// on those before it, but fails without stopping them.
const (
	DomainKernel    = kernel.Domain
	DomainHostNames = names.Domain
	DomainNetwork   = netcfg.Domain
	DomainPKI       = pki.Domain
	DomainUnits     = units.Domain
	DomainProof     = proof.Domain
	DomainCluster   = cluster.Domain
)

// DomainNames returns the names of all domains in order.
func DomainNames() []string {
	return []string{DomainKernel, DomainHostNames, DomainNetwork, DomainPKI, DomainUnits, DomainProof, DomainCluster}
}

// Only returns the domains with the given names, in their own order; all of
// them when no name is given. An unknown name is an error that lists the known
// ones.
func Only(domains []Domain, names []string) ([]Domain, error) {
	for _, name := range names {
		if !slices.Contains(DomainNames(), name) {
			return nil, fmt.Errorf("no domain %q; there are %s", name, strings.Join(DomainNames(), ", "))
		}
	}
	if len(names) == 0 {
		return domains, nil
	}
	return slices.DeleteFunc(slices.Clone(domains), func(d Domain) bool {
		return !slices.Contains(names, d.Name())
	}), nil
}

// Plan returns the changes of all domains. A domain that could not be observed
// in full adds to the error, and what it did see to the plan.
func Plan(ctx context.Context, domains []Domain) (plan.Plan, error) {
	var p plan.Plan
	var failed []error
	for _, d := range domains {
		changes, err := d.Plan(ctx)
		p.Changes = append(p.Changes, changes...)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", d.Name(), err))
		}
	}
	return p, errors.Join(failed...)
}
