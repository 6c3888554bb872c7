// Package cluster keeps the few Kubernetes API objects that a cluster needs to
// stand on its own, on control-plane hosts: the bindings of nodeagent's two
// groups. Everything else that the components may do comes from bindings that
// kube-apiserver makes by itself (system:node-proxier for kube-proxy, one for
// each controller) and from the Node authorizer (kubelets).
//
// Words: a binding is a ClusterRoleBinding. The superuser is a short-lived
// client certificate of group system:masters, which alone may hand out
// cluster-admin; it is asked for when there is something to apply and never
// kept.
//
// Ownership: bindings that carry [OwnerLabel] and whose names begin with
// [NamePrefix]. A binding that has a wanted name but not the label is taken
// over, since the spec asks for it; nothing else is changed or removed.
package cluster

import (
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Domain is the name of the domain.
const Domain = "cluster"

// The marks of what is nodeagent's own in the API.
const (
	NamePrefix = "nodeagent:"
	OwnerLabel = "app.kubernetes.io/managed-by"
	Owner      = "nodeagent"
)

// State is the wanted or observed bindings.
type State struct {
	// Bindings are sorted by name.
	Bindings []Binding
	// Unknown says why nothing could be observed: the API server doesn't
	// answer, or refuses the administrator, whose binding is then missing.
	// Empty in a wanted state.
	Unknown string
}

// Binding gives subjects a cluster role.
type Binding struct {
	Name string
	// Role is the name of a ClusterRole. It cannot be changed in place.
	Role string
	// Subjects in the order in which the API has them.
	Subjects []Subject
	// Owned tells whether the binding carries the label.
	Owned bool
}

// Subject is a user, group or service account.
type Subject struct {
	Kind, Name string
	Namespace  string // of a service account
}

// String is the subject as plans print it: "Group nodeagent:admins".
func (s Subject) String() string {
	if s.Namespace != "" {
		return s.Kind + " " + s.Namespace + "/" + s.Name
	}
	return s.Kind + " " + s.Name
}

// Want returns the bindings of a cluster, the same on each of its control-plane
// hosts, and nothing on other hosts.
func Want(spec *hosts.Spec) State {
	if !spec.Has(hosts.RoleControlPlane) {
		return State{}
	}
	return State{Bindings: []Binding{
		group(layout.AdminGroup, "cluster-admin"),
		group(layout.KubeletAPIGroup, "system:kubelet-api-admin"),
	}}
}

// group binds a group to a role; the binding is named after the group.
func group(name, role string) Binding {
	return Binding{Name: name, Role: role, Subjects: []Subject{{Kind: "Group", Name: name}}, Owned: true}
}

// find returns the binding with the given name.
func (s State) find(name string) (Binding, bool) {
	at := slices.IndexFunc(s.Bindings, func(b Binding) bool { return b.Name == name })
	if at < 0 {
		return Binding{}, false
	}
	return s.Bindings[at], true
}

// print is the binding as plans show it.
func (b Binding) print() string {
	lines := []string{"role " + b.Role}
	for _, subject := range b.Subjects {
		lines = append(lines, "for "+subject.String())
	}
	return strings.Join(lines, "\n")
}
