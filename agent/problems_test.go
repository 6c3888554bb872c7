package agent

import (
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/internal/cluster"
)

func TestNodeProblems(t *testing.T) {
	for _, tc := range []struct {
		node cluster.NodeStatus
		want string
	}{
		{cluster.NodeStatus{Name: "h", Ready: true, Version: "v1.36.3"}, ""},
		{cluster.NodeStatus{Name: "h", Ready: true, Version: "v1.35.0"}, "the kubelet is v1.35.0, the spec says 1.36.3"},
		{cluster.NodeStatus{Name: "h", Reason: "no network"}, "no network"},
		{cluster.NodeStatus{Name: "other", Ready: true}, "not registered"},
	} {
		got := strings.Join(nodeProblems([]cluster.NodeStatus{tc.node}, "h", "1.36.3"), "\n")
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.node, got, tc.want)
		}
	}
}

func TestDropInsAreTold(t *testing.T) {
	s := Status{Components: []ComponentStatus{{Name: "etcd", DropIns: []string{"/etc/x.conf"}}, {Name: "kubelet"}}}
	if got := s.warnings(nil); len(got) != 1 || !strings.Contains(got[0], "/etc/x.conf changes what etcd does") {
		t.Errorf("warnings %q", got)
	}
}
