package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Observe reads nodeagent's own bindings and those that have a wanted name. It
// only reads.
//
// An administrator who is refused has no binding yet: that is no error, and
// Unknown says so. An error wraps ErrUnreachable when the API server could not
// be asked, as on a host where it doesn't run yet; the State is then still fit
// for Diff, which lists everything wanted as to be created and says why.
func Observe(ctx context.Context, c *Client, want State) (State, error) {
	if len(want.Bindings) == 0 {
		return State{}, nil
	}
	have, err := observe(ctx, c, want)
	switch {
	case err == nil:
		return have, nil
	case apierrors.IsForbidden(err):
		return State{Unknown: "the API server refuses the administrator, as it does without the binding"}, nil
	}
	err = reach(ctx, err)
	reason := "the API server's answer cannot be used"
	if errors.Is(err, ErrUnreachable) {
		reason = "the API server cannot be reached"
	}
	return State{Unknown: reason}, fmt.Errorf("observe cluster role bindings at %s: %w", c.server, err)
}

// Unreachable is what is observed, without asking, where there is nothing to
// connect with yet.
func Unreachable() State { return State{Unknown: "the API server cannot be reached"} }

func observe(ctx context.Context, c *Client, want State) (State, error) {
	list, err := c.api.Resource(bindings).List(ctx, metav1.ListOptions{LabelSelector: OwnerLabel + "=" + Owner})
	if err != nil {
		return State{}, err
	}
	var have State
	for i := range list.Items {
		have.Bindings = append(have.Bindings, read(&list.Items[i]))
	}
	for _, binding := range want.Bindings {
		if _, seen := have.find(binding.Name); seen {
			continue
		}
		object, err := c.api.Resource(bindings).Get(ctx, binding.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return State{}, err
		}
		have.Bindings = append(have.Bindings, read(object))
	}
	slices.SortFunc(have.Bindings, func(a, b Binding) int { return strings.Compare(a.Name, b.Name) })
	return have, nil
}

// read translates a ClusterRoleBinding. Fields that are missing or of another
// type, which the API server doesn't let through, read as empty.
func read(object *unstructured.Unstructured) Binding {
	role, _, _ := unstructured.NestedString(object.Object, "roleRef", "name")
	subjects, _, _ := unstructured.NestedSlice(object.Object, "subjects")
	binding := Binding{
		Name:  object.GetName(),
		Role:  role,
		Owned: object.GetLabels()[OwnerLabel] == Owner,
	}
	for _, subject := range subjects {
		fields, _ := subject.(map[string]any)
		text := func(name string) string { value, _ := fields[name].(string); return value }
		binding.Subjects = append(binding.Subjects, Subject{
			Kind: text("kind"), Name: text("name"), Namespace: text("namespace"),
		})
	}
	return binding
}

// write is the inverse of read, for a server-side apply: it holds the fields
// that nodeagent owns and no others.
func write(binding Binding) *unstructured.Unstructured {
	var subjects []any
	for _, subject := range binding.Subjects {
		fields := map[string]any{"kind": subject.Kind, "name": subject.Name}
		if subject.Namespace == "" {
			fields["apiGroup"] = bindings.Group
		} else {
			fields["namespace"] = subject.Namespace
		}
		subjects = append(subjects, fields)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": bindings.GroupVersion().String(),
		"kind":       "ClusterRoleBinding",
		"metadata": map[string]any{
			"name":   binding.Name,
			"labels": map[string]any{OwnerLabel: Owner},
		},
		"roleRef":  map[string]any{"apiGroup": bindings.Group, "kind": "ClusterRole", "name": binding.Role},
		"subjects": subjects,
	}}
}
