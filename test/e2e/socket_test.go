package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// socketIsRoots looks at the socket on which etcd takes requests without a
// certificate: nobody but root may come near it.
func socketIsRoots(t *testing.T, h *host) {
	for path, want := range map[string]string{
		onHost.EtcdRuntime(): "700 root directory",
		onHost.EtcdSocket():  "700 root socket",
	} {
		if got := strings.TrimSpace(h.must("stat", "-c", "%a %U %F", path)); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	// The same request, by root and by somebody else.
	ask := ". /etc/profile; unset ETCDCTL_CACERT ETCDCTL_CERT ETCDCTL_KEY; ETCDCTL_ENDPOINTS=unix://" + onHost.EtcdSocket() +
		" etcdctl --dial-timeout=2s --command-timeout=2s endpoint status"
	h.must("sh", "-c", ask)
	if out, err := h.Exec(h.ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", ask); err == nil {
		t.Errorf("etcd answers a stranger at its socket:\n%s", out)
	} else if !strings.Contains(err.Error(), "connect: permission denied") {
		t.Errorf("a stranger at etcd's socket: %v, want connect: permission denied", err)
	}

	var saved struct{ Endpoint string }
	out := h.agent("snapshot", "save", "--to", "/var/lib/nodeagent/socket", "-o", "json")
	if err := json.Unmarshal([]byte(out), &saved); err != nil {
		t.Fatalf("snapshot save says:\n%s\n%v", out, err)
	}
	if want := "unix://" + onHost.EtcdSocket(); saved.Endpoint != want {
		t.Errorf("the snapshot came from %q, want %q", saved.Endpoint, want)
	}
	h.must("rm", "-r", "/var/lib/nodeagent/socket")
}
