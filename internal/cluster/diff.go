package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// edit is the payload of a change: what Apply does with one binding.
type edit struct {
	binding Binding
	remove  bool
}

// Diff returns the changes that make have into want: first what is missing or
// different, then what is no longer wanted, each sorted by name. Where have is
// not known, everything wanted is to be created, and the reason says so.
func Diff(have, want State) []plan.Change {
	var changes []plan.Change
	for _, binding := range want.Bindings {
		was, exists := have.find(binding.Name)
		if exists && was.equal(binding) {
			continue
		}
		changes = append(changes, change(was, binding, exists, have.Unknown))
	}
	for _, binding := range have.Bindings {
		if _, wanted := want.find(binding.Name); wanted || !binding.ours() {
			continue
		}
		changes = append(changes, plan.Change{
			Domain: Domain, Key: key(binding), Action: plan.ActionDelete, Effect: plan.Quiet,
			Reason: "it is nodeagent's own and no longer wanted", Before: binding.print(),
			Payload: edit{binding: binding, remove: true},
		})
	}
	return changes
}

func change(was, binding Binding, exists bool, unknown string) plan.Change {
	c := plan.Change{
		Domain: Domain, Key: key(binding), Action: plan.ActionCreate, Effect: plan.Quiet,
		Reason: "the cluster has no such binding", After: binding.print(),
		Payload: edit{binding: binding},
	}
	switch {
	case unknown != "":
		c.Reason = "not known to be there: " + unknown
	case exists:
		c.Action = plan.ActionUpdate
		c.Before = was.print()
		c.Reason = strings.Join(differences(was, binding), ", ")
	}
	return c
}

func differences(was, binding Binding) []string {
	var reasons []string
	if was.Role != binding.Role {
		reasons = append(reasons, fmt.Sprintf("it gives %s, so it is deleted and made again", was.Role))
	}
	if !slices.Equal(was.Subjects, binding.Subjects) {
		reasons = append(reasons, "its subjects differ")
	}
	if !was.Owned {
		reasons = append(reasons, "it lacks the label "+OwnerLabel+"="+Owner)
	}
	return reasons
}

func (b Binding) equal(other Binding) bool {
	return b.Name == other.Name && b.Role == other.Role && b.Owned == other.Owned &&
		slices.Equal(b.Subjects, other.Subjects)
}

// ours tells whether nodeagent made the binding and may remove it.
func (b Binding) ours() bool { return b.Owned && strings.HasPrefix(b.Name, NamePrefix) }

func key(b Binding) string { return "clusterrolebinding " + b.Name }
