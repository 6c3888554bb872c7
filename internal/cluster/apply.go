package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// effectiveTimeout is how long a new binding may take until it counts.
const effectiveTimeout = 30 * time.Second

// readyTimeout is how long Apply waits for the API server to be ready. Whoever
// started it has waited for that already; this is for one that is just being
// restarted. One that does not run is not waited for any longer.
const readyTimeout = 15 * time.Second

// Apply carries out the changes of Diff with a client that holds the
// superuser's certificate. It waits for the API server to be ready first. Each
// step may be repeated: what a crash leaves undone, the next Diff finds.
func Apply(ctx context.Context, c *Client, changes []plan.Change, rep plan.Reporter) error {
	if len(changes) == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.WaitReady(wait); err != nil {
		return fmt.Errorf("apply cluster role bindings: %w", err)
	}
	return plan.Each(ctx, changes, rep, func(ctx context.Context, change plan.Change) error {
		todo, ok := change.Payload.(edit)
		if !ok {
			return fmt.Errorf("the change is not of domain %s", Domain)
		}
		return reach(ctx, c.carryOut(ctx, todo))
	})
}

func (c *Client) carryOut(ctx context.Context, todo edit) error {
	if todo.remove {
		return c.remove(ctx, todo.binding)
	}
	if err := c.removeOtherRole(ctx, todo.binding); err != nil {
		return err
	}
	// Force takes over fields that another manager has set by hand: the spec
	// asks for these values.
	options := metav1.ApplyOptions{FieldManager: Owner, Force: true}
	if _, err := c.api.Resource(bindings).Apply(ctx, todo.binding.Name, write(todo.binding), options); err != nil {
		return err
	}
	return c.waitEffective(ctx, todo.binding)
}

func (c *Client) remove(ctx context.Context, binding Binding) error {
	err := c.api.Resource(bindings).Delete(ctx, binding.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// removeOtherRole deletes a binding of the same name that gives another role,
// which the API refuses to change in place. It asks anew, because Diff may not
// have known.
func (c *Client) removeOtherRole(ctx context.Context, binding Binding) error {
	object, err := c.api.Resource(bindings).Get(ctx, binding.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil || read(object).Role == binding.Role {
		return err
	}
	return c.remove(ctx, binding)
}

// waitEffective waits until the API server's authorizer, which learns of
// bindings by a watch, counts the administrators in: the next observation is
// theirs. Other bindings have nobody who waits for them here.
func (c *Client) waitEffective(ctx context.Context, binding Binding) error {
	if binding.Name != layout.AdminGroup {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, effectiveTimeout)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		allowed, err := c.allows(ctx, layout.AdminGroup)
		if allowed {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for the binding to take effect: %w", context.Cause(ctx)), err)
		case <-ticker.C:
		}
	}
}

// allows asks whether the group may do everything.
func (c *Client) allows(ctx context.Context, group string) (bool, error) {
	review, err := c.api.Resource(accessReviews).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": accessReviews.GroupVersion().String(),
		"kind":       "SubjectAccessReview",
		"spec": map[string]any{
			"user":               "kubernetes-admin",
			"groups":             []any{group, "system:authenticated"},
			"resourceAttributes": map[string]any{"verb": "*", "group": "*", "resource": "*"},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	allowed, _, err := unstructured.NestedBool(review.Object, "status", "allowed")
	return allowed, err
}
