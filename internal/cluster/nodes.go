package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// NodeStatus is what the API server knows of one node.
type NodeStatus struct {
	Name string `json:"name"`
	// Ready is the node's condition of that name; Reason says why when it is
	// not, and is empty when it is.
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
	// Cordoned nodes take no new pods.
	Cordoned bool `json:"cordoned"`
	// Version of the kubelet, with its "v".
	Version string `json:"version"`
	// Addresses are the node's internal addresses.
	Addresses []string `json:"addresses"`
}

// Nodes lists the nodes of the cluster, sorted by name. The error wraps
// ErrUnreachable when the API server could not be asked.
func Nodes(ctx context.Context, c *Client) ([]NodeStatus, error) {
	list, err := c.api.Resource(nodes).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes at %s: %w", c.server, reach(ctx, err))
	}
	statuses := make([]NodeStatus, len(list.Items))
	for i := range list.Items {
		statuses[i] = nodeStatus(&list.Items[i])
	}
	slices.SortFunc(statuses, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return statuses, nil
}

// nodeStatus translates a Node. What is missing reads as empty: a node that has
// just been registered has no conditions yet.
func nodeStatus(node *unstructured.Unstructured) NodeStatus {
	status := NodeStatus{Name: node.GetName(), Reason: "it has not reported yet"}
	status.Version, _, _ = unstructured.NestedString(node.Object, "status", "nodeInfo", "kubeletVersion")
	status.Cordoned, _, _ = unstructured.NestedBool(node.Object, "spec", "unschedulable")
	for _, condition := range tables(node, "status", "conditions") {
		if condition["type"] != "Ready" {
			continue
		}
		status.Ready = condition["status"] == "True"
		status.Reason = ""
		if !status.Ready {
			status.Reason = fmt.Sprintf("%v: %v", condition["reason"], condition["message"])
		}
	}
	for _, address := range tables(node, "status", "addresses") {
		if value, ok := address["address"].(string); ok && address["type"] == "InternalIP" {
			status.Addresses = append(status.Addresses, value)
		}
	}
	return status
}

// tables reads a list of objects.
func tables(object *unstructured.Unstructured, path ...string) []map[string]any {
	list, _, _ := unstructured.NestedSlice(object.Object, path...)
	var found []map[string]any
	for _, item := range list {
		if table, ok := item.(map[string]any); ok {
			found = append(found, table)
		}
	}
	return found
}
