package agent

import (
	"context"

	"github.com/nodeagent/nodeagent/internal/names"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// resolved is the unit that is told of new name servers.
const resolved = "systemd-resolved.service"

func (h *Host) names() *names.System {
	return &names.System{Root: h.root, Reload: func(ctx context.Context) error { return h.systemd.Tell(ctx, resolved) }}
}

func (h *Host) namesDomain() Domain {
	system := h.names()
	return verbs[names.State]{
		name: DomainHostNames,
		want: func(context.Context) (names.State, error) { return names.Want(h.Spec()), nil },
		observe: func(ctx context.Context, want names.State) (names.State, error) {
			return names.Observe(ctx, system, want)
		},
		diff: names.Diff,
		apply: func(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
			return names.Apply(ctx, system, changes, rep)
		},
	}
}

// watchNames notices a name that was set and a file of names that was written.
func (h *Host) watchNames(ctx context.Context, events chan<- Event) error {
	system := h.names()
	ev := Event{Source: "the host's names", Domains: []string{DomainHostNames}}
	if err := watchSignals(ctx, h.log, system.Watch, events, ev); err != nil {
		return err
	}
	watchTrees(ctx, h.log, events, ev, system.Files()...)
	return nil
}

// nameWarnings says what the spec's names cannot overrule.
func (h *Host) nameWarnings(ctx context.Context) []string {
	want := names.Want(h.Spec())
	have, err := names.Observe(ctx, h.names(), want)
	if err != nil {
		return nil // the plan says so
	}
	return names.Warnings(have, want)
}
