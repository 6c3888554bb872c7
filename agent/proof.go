package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/proof"
)

// proofDomain holds what components really use against what lies on disk.
func (h *Host) proofDomain() Domain {
	return verbs[proof.State]{
		name: DomainProof,
		want: h.wantProof,
		observe: func(ctx context.Context, want proof.State) (proof.State, error) {
			return proof.Observe(ctx, h.root, want)
		},
		diff: proof.Diff,
		apply: func(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
			applier := proof.Applier{Root: h.root, Restart: h.restartComponent, PutBack: h.putBack}
			return applier.Apply(ctx, changes, rep)
		},
	}
}

// wantProof asks for what lies on disk now; what cannot be read is the business
// of domain pki.
func (h *Host) wantProof(ctx context.Context) (proof.State, error) {
	have, seen := h.seenPKI.take(time.Now())
	var err error
	if !seen {
		have, err = pki.ObservePairs(ctx, h.root)
	}
	if err != nil && ctx.Err() != nil {
		return proof.State{}, err
	}
	return proof.Want(h.Spec(), have, time.Now()), nil
}

// restartComponent restarts a component that does not see its new pair by
// itself.
func (h *Host) restartComponent(ctx context.Context, component string) error {
	all := h.wantUnits().Units
	i := slices.IndexFunc(all, func(u units.Unit) bool { return u.Name == layout.Unit(component) })
	if i < 0 {
		return fmt.Errorf("restart %s: this host does not run it", component)
	}
	return h.exclusively(ctx, DomainUnits, func() error { return h.systemd.Restart(ctx, all[i]) })
}

// putBack takes the pair before the one in use into use again.
func (h *Host) putBack(ctx context.Context, certificate, reason string) error {
	for _, c := range pki.Want(h.Spec()).Certificates {
		if c.Name == certificate {
			applier := pki.Applier{Root: h.root}
			return h.exclusively(ctx, DomainPKI, func() error { return applier.PutBack(ctx, c.Request, reason) })
		}
	}
	return fmt.Errorf("put back certificate %q: this host wants none of that name", certificate)
}
