package cluster

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func controlPlane() *hosts.Spec {
	return &hosts.Spec{Name: "a", Roles: []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd}, Kubernetes: hosts.Kubernetes{APIPort: 6443}}
}

func TestWant(t *testing.T) {
	if got := Want(&hosts.Spec{Roles: []hosts.Role{hosts.RoleWorker}}); len(got.Bindings) != 0 {
		t.Errorf("a worker wants %v", got)
	}
	want := Want(controlPlane())
	for _, binding := range want.Bindings {
		if !binding.ours() {
			t.Errorf("%s would not be recognised as nodeagent's own", binding.Name)
		}
		if diff := cmp.Diff(binding, read(write(binding))); diff != "" {
			t.Errorf("%s does not read back:\n%s", binding.Name, diff)
		}
	}
	if !slices.IsSortedFunc(want.Bindings, func(a, b Binding) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted")
	}
}

func TestDiff(t *testing.T) {
	want := Want(controlPlane())
	admins, kubelets := want.Bindings[0], want.Bindings[1]
	with := func(b Binding, change func(*Binding)) Binding { change(&b); return b }
	tests := []struct {
		what string
		have State
		want []string // action, key, part of the reason
	}{
		{"converged", want, nil},
		{"bare", State{}, []string{
			"create clusterrolebinding nodeagent:admins no such", "create clusterrolebinding nodeagent:kubelet-api-admins no such",
		}},
		{"unknown", Unreachable(), []string{
			"create clusterrolebinding nodeagent:admins cannot be reached", "create clusterrolebinding nodeagent:kubelet-api-admins cannot be reached",
		}},
		{"one gone", State{Bindings: []Binding{admins}}, []string{"create clusterrolebinding nodeagent:kubelet-api-admins no such"}},
		{"another role", State{Bindings: []Binding{with(admins, func(b *Binding) { b.Role = "view" }), kubelets}}, []string{
			"update clusterrolebinding nodeagent:admins it gives view, so it is deleted",
		}},
		{"a subject more", State{Bindings: []Binding{with(admins, func(b *Binding) {
			b.Subjects = append(slices.Clone(b.Subjects), Subject{Kind: "User", Name: "mallory"})
		}), kubelets}}, []string{"update clusterrolebinding nodeagent:admins its subjects differ"}},
		{"label gone", State{Bindings: []Binding{with(admins, func(b *Binding) { b.Owned = false }), kubelets}}, []string{
			"update clusterrolebinding nodeagent:admins lacks the label",
		}},
		{"stale", State{Bindings: []Binding{admins, kubelets, {Name: "nodeagent:old", Owned: true}}}, []string{
			"delete clusterrolebinding nodeagent:old no longer wanted",
		}},
		{"not ours", State{Bindings: []Binding{admins, kubelets, {Name: "nodeagent:hand-made"}, {Name: "other", Owned: true}}}, nil},
	}
	for _, test := range tests {
		changes := Diff(test.have, want)
		if len(changes) != len(test.want) {
			t.Errorf("%s: %v", test.what, changes)
			continue
		}
		for i, c := range changes {
			head := string(c.Action) + " " + c.Key + " "
			if !strings.HasPrefix(test.want[i], head) || !strings.Contains(c.Reason, strings.TrimPrefix(test.want[i], head)) {
				t.Errorf("%s: %s because %s, want %q", test.what, c, c.Reason, test.want[i])
			}
			if c.Domain != Domain || c.Effect != plan.Quiet || c.Before+c.After == "" {
				t.Errorf("%s: incomplete change %+v", test.what, c)
			}
		}
	}
}

// TestDiffConverges is the law that a diff that was carried out leaves none,
// over random states.
func TestDiffConverges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{layout.AdminGroup, layout.KubeletAPIGroup, "nodeagent:old", "nodeagent:older", "other"}
	roles := []string{"cluster-admin", "system:kubelet-api-admin", "view"}
	state := func() State {
		var s State
		for _, name := range names {
			if random.IntN(2) == 0 {
				continue
			}
			b := Binding{Name: name, Role: roles[random.IntN(len(roles))], Owned: random.IntN(2) == 0}
			for range random.IntN(3) {
				b.Subjects = append(b.Subjects, Subject{Kind: "Group", Name: names[random.IntN(len(names))]})
			}
			s.Bindings = append(s.Bindings, b)
		}
		return s
	}
	for range 2000 {
		have, want := state(), Want(controlPlane())
		after := carriedOut(have, Diff(have, want))
		if left := Diff(after, want); len(left) != 0 {
			t.Fatalf("from %+v: left %v", have, left)
		}
		for _, binding := range have.Bindings {
			if _, wanted := want.find(binding.Name); wanted || binding.ours() {
				continue
			}
			if kept, ok := after.find(binding.Name); !ok || !kept.equal(binding) {
				t.Fatalf("%s is not ours and was touched", binding.Name)
			}
		}
	}
}

// carriedOut is the model of Apply.
func carriedOut(have State, changes []plan.Change) State {
	after := State{Bindings: slices.Clone(have.Bindings)}
	for _, c := range changes {
		todo := c.Payload.(edit)
		after.Bindings = slices.DeleteFunc(after.Bindings, func(b Binding) bool { return b.Name == todo.binding.Name })
		if !todo.remove {
			after.Bindings = append(after.Bindings, todo.binding)
		}
	}
	return after
}

func TestNodeStatus(t *testing.T) {
	condition := func(status string) map[string]any {
		return map[string]any{
			"spec": map[string]any{"unschedulable": true},
			"status": map[string]any{
				"nodeInfo":   map[string]any{"kubeletVersion": "v1.36.3"},
				"addresses":  []any{map[string]any{"type": "Hostname", "address": "a"}, map[string]any{"type": "InternalIP", "address": "10.0.0.1"}},
				"conditions": []any{map[string]any{"type": "Ready", "status": status, "reason": "R", "message": "why"}},
			},
		}
	}
	for status, want := range map[string]NodeStatus{
		"True":    {Ready: true, Cordoned: true, Version: "v1.36.3", Addresses: []string{"10.0.0.1"}},
		"False":   {Reason: "R: why", Cordoned: true, Version: "v1.36.3", Addresses: []string{"10.0.0.1"}},
		"Unknown": {Reason: "R: why", Cordoned: true, Version: "v1.36.3", Addresses: []string{"10.0.0.1"}},
	} {
		if diff := cmp.Diff(want, nodeStatus(&unstructured.Unstructured{Object: condition(status)})); diff != "" {
			t.Errorf("%s:\n%s", status, diff)
		}
	}
	if got := nodeStatus(&unstructured.Unstructured{Object: map[string]any{}}); got.Ready || got.Reason == "" {
		t.Errorf("a new node reads as %+v", got)
	}
}

func TestFailedChecks(t *testing.T) {
	body := "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed: not finished\nreadyz check failed\n"
	if got := failedChecks(body); got != "etcd failed: reason withheld, poststarthook/x failed: not finished" {
		t.Error(got)
	}
	if got := failedChecks("no\n"); got != "no" {
		t.Error(got)
	}
}

// TestUnreachable: nothing listens, no certificate is there yet, or the server
// cannot serve: each is ErrUnreachable, and each leaves a plan. A server that
// refuses is something else.
func TestUnreachable(t *testing.T) {
	status := http.StatusServiceUnavailable
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	pair := func(context.Context) (tls.Certificate, error) { return server.TLS.Certificates[0], nil }
	none := Files(layout.Root(t.TempDir()).Certificate(layout.CertAdmin))

	tests := []struct {
		what, url   string
		certificate Certificate
		status      int
		unreachable bool
		err         bool
	}{
		{"nothing listens", "https://127.0.0.1:1", pair, 0, true, true},
		{"no certificate", server.URL, none, 0, true, true},
		{"etcd is away", server.URL, pair, http.StatusServiceUnavailable, true, true},
		{"certificate refused", server.URL, pair, http.StatusUnauthorized, false, true},
		{"not allowed", server.URL, pair, http.StatusForbidden, false, false},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			status = test.status
			client, err := Connect(test.url, ca, test.certificate)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			want := Want(controlPlane())
			have, err := Observe(ctx, client, want)
			if errors.Is(err, ErrUnreachable) != test.unreachable || (err != nil) != test.err {
				t.Errorf("error is %v", err)
			}
			if len(Diff(have, want)) != 2 {
				t.Errorf("the plan is %v", Diff(have, want))
			}
		})
	}
	if _, err := Connect(server.URL, filepath.Join(t.TempDir(), "none"), pair); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without a CA bundle: %v", err)
	}
}
