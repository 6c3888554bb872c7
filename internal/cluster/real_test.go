package cluster_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

var (
	bindings = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
	nodes    = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	secrets  = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// TestRealControlPlane runs the components as rendered and then holds the
// domain's laws against the API server.
func TestRealControlPlane(t *testing.T) {
	plane := startControlPlane(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	t.Run("anonymous", func(t *testing.T) { testAnonymous(t, plane) })
	t.Run("converge", func(t *testing.T) { testConverge(ctx, t, plane) })
	t.Run("drift", func(t *testing.T) { testDrift(ctx, t, plane) })
	t.Run("nodes", func(t *testing.T) { testNodes(ctx, t, plane) })
	t.Run("secrets", func(t *testing.T) { testSecrets(ctx, t, plane) })
	t.Run("rewrite", func(t *testing.T) { testRewrite(ctx, t, plane) })
}

// testAnonymous: who has no certificate may ask for health, and nothing else.
func testAnonymous(t *testing.T, plane controlPlane) {
	for path, want := range map[string]int{
		"/livez": http.StatusOK, "/readyz": http.StatusOK, "/healthz": http.StatusOK,
		"/version": http.StatusUnauthorized, "/api": http.StatusUnauthorized, "/metrics": http.StatusUnauthorized,
		"/.well-known/openid-configuration": http.StatusUnauthorized,
	} {
		if got := plane.anonymous(t, path); got != want {
			t.Errorf("%s answers %d, want %d", path, got, want)
		}
	}
}

func (p controlPlane) admin(t *testing.T) *cluster.Client {
	return p.connect(t, cluster.Files(p.root.Certificate(layout.CertAdmin)))
}

func (p controlPlane) connect(t *testing.T, certificate cluster.Certificate) *cluster.Client {
	t.Helper()
	client, err := cluster.Connect(cluster.LocalServer(p.spec), p.root.Trust(layout.CAK8sServer), certificate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// planned observes as the administrator does.
func planned(ctx context.Context, t *testing.T, plane controlPlane) (cluster.State, []plan.Change) {
	t.Helper()
	want := cluster.Want(plane.spec)
	have, err := cluster.Observe(ctx, plane.admin(t), want)
	if err != nil {
		t.Fatal(err)
	}
	return have, cluster.Diff(have, want)
}

// converge plans, applies, and wants the next plan to be empty at once.
func converge(ctx context.Context, t *testing.T, plane controlPlane) []plan.Change {
	t.Helper()
	_, changes := planned(ctx, t, plane)
	if err := cluster.Apply(ctx, plane.connect(t, plane.superuser(t)), changes, plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	if have, left := planned(ctx, t, plane); len(left) != 0 {
		t.Fatalf("left %v after %v; observed %+v", left, changes, have)
	}
	return changes
}

func testConverge(ctx context.Context, t *testing.T, plane controlPlane) {
	have, changes := planned(ctx, t, plane)
	if len(changes) != 2 || !strings.Contains(have.Unknown, "refuses") {
		t.Fatalf("a new cluster gives %v, observed %+v", changes, have)
	}
	// The administrator cannot hand out what he doesn't have.
	err := cluster.Apply(ctx, plane.admin(t), changes, plan.Silent{})
	if err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Fatalf("applied without the superuser: %v", err)
	}
	before := plane.version(ctx, t)
	if planned(ctx, t, plane); plane.version(ctx, t) != before {
		t.Error("planning wrote to the API")
	}
	converge(ctx, t, plane)
	before = plane.version(ctx, t)
	if converge(ctx, t, plane); plane.version(ctx, t) != before {
		t.Error("a second converge wrote to the API")
	}
}

// version is the resource version of all bindings together.
func (p controlPlane) version(ctx context.Context, t *testing.T) string {
	t.Helper()
	list, err := p.raw(t).Resource(bindings).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, item := range list.Items {
		versions = append(versions, item.GetName()+"="+item.GetResourceVersion())
	}
	return strings.Join(versions, " ")
}

// raw is a client of the test's own, as the superuser.
func (p controlPlane) raw(t *testing.T) dynamic.Interface {
	t.Helper()
	pair := p.clients.Issue(t, "kubernetes-super-admin", inGroups("system:masters"))
	api, err := dynamic.NewForConfig(&rest.Config{
		Host: cluster.LocalServer(p.spec), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CertData: pair.PEM(), KeyData: pair.KeyPEM(t), CAFile: p.root.Trust(layout.CAK8sServer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func clusterRoleBinding(name, role, subject string, labels map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]any{"name": name, "labels": labels},
		"roleRef":  map[string]any{"apiGroup": bindings.Group, "kind": "ClusterRole", "name": role},
		"subjects": []any{map[string]any{"apiGroup": bindings.Group, "kind": "Group", "name": subject}},
	}}
}

// testDrift: whatever is done to the bindings by hand is put right, and what is
// not nodeagent's stays.
func testDrift(ctx context.Context, t *testing.T, plane controlPlane) {
	api := plane.raw(t).Resource(bindings)
	must := func(_ *unstructured.Unstructured, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	own := map[string]any{cluster.OwnerLabel: cluster.Owner}
	foreign := clusterRoleBinding("hand-made", "view", "people", nil)
	must(api.Create(ctx, foreign, metav1.CreateOptions{}))

	drifts := map[string]struct {
		change func()
		want   string
	}{
		"kubelets' binding gone": {func() { remove(layout.KubeletAPIGroup) }, "create"},
		"admins' binding gone":   {func() { remove(layout.AdminGroup) }, "create,create"},
		"another role": {func() {
			remove(layout.KubeletAPIGroup)
			must(api.Create(ctx, clusterRoleBinding(layout.KubeletAPIGroup, "view", layout.KubeletAPIGroup, own), metav1.CreateOptions{}))
		}, "update"},
		"admins' role changed, so that nobody can look": {func() {
			remove(layout.AdminGroup)
			must(api.Create(ctx, clusterRoleBinding(layout.AdminGroup, "system:basic-user", layout.AdminGroup, own), metav1.CreateOptions{}))
		}, "create,create"},
		"another subject and no label": {func() {
			remove(layout.KubeletAPIGroup)
			must(api.Create(ctx, clusterRoleBinding(layout.KubeletAPIGroup, "system:kubelet-api-admin", "mallory", nil), metav1.CreateOptions{}))
		}, "update"},
		"an old one of our own": {func() {
			must(api.Create(ctx, clusterRoleBinding("nodeagent:old", "view", "people", own), metav1.CreateOptions{}))
		}, "delete"},
	}
	for name, drift := range drifts {
		drift.change()
		waitDrift(ctx, t, plane)
		var actions []string
		for _, change := range converge(ctx, t, plane) {
			actions = append(actions, string(change.Action))
		}
		if got := strings.Join(actions, ","); got != drift.want {
			t.Errorf("%s: %s, want %s", name, got, drift.want)
		}
	}
	left, err := api.Get(ctx, "hand-made", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if left.GetGeneration() != 0 || len(left.GetManagedFields()) != 1 || len(left.GetLabels()) != 0 {
		t.Errorf("a binding that isn't nodeagent's was changed: %v", left)
	}
}

// waitDrift waits until the API server's own view has the drift: its authorizer
// learns of bindings by a watch.
func waitDrift(ctx context.Context, t *testing.T, plane controlPlane) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, changes := planned(ctx, t, plane); len(changes) > 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the drift is never seen")
		case <-tick.C:
		}
	}
}

func testNodes(ctx context.Context, t *testing.T, plane controlPlane) {
	got, err := cluster.Nodes(ctx, plane.admin(t))
	if err != nil || len(got) != 0 {
		t.Fatalf("nodes of an empty cluster: %v, %v", got, err)
	}
	_, err = plane.raw(t).Resource(nodes).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "a"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err = cluster.Nodes(ctx, plane.admin(t))
	if err != nil || len(got) != 1 || got[0].Name != "a" || got[0].Ready || got[0].Reason == "" {
		t.Fatalf("nodes are %+v, %v", got, err)
	}
}

// testSecrets: a secret is neither in etcd's files nor in the audit log in
// clear, and the log knows who made it.
func testSecrets(ctx context.Context, t *testing.T, plane controlPlane) {
	const value = "c2VjcmV0LW9mLXRoZS10ZXN0" // base64 of what is searched for below
	_, err := plane.raw(t).Resource(secrets).Namespace("default").Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, "data": map[string]any{"k": value},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	log := readAll(t, filepath.Join(string(plane.root), "var/log/kubernetes"))
	if !strings.Contains(log, `/api/v1/namespaces/default/secrets`) {
		t.Error("the audit log doesn't know of the secret")
	}
	for where, content := range map[string]string{"the audit log": log, "etcd's data": readAll(t, plane.root.EtcdData())} {
		if strings.Contains(content, value) || strings.Contains(content, "secret-of-the-test") {
			t.Errorf("the secret is in %s", where)
		}
	}
	if !strings.Contains(readAll(t, plane.root.EtcdData()), "k8s:enc:secretbox:v1:one:") {
		t.Error("nothing in etcd is encrypted")
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
