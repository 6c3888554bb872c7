package agent

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/layout"
)

func TestJudgeLoaded(t *testing.T) {
	content := []byte("keys")
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	written := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		loaded cluster.Loaded
		in     bool
	}{
		{"what lies on disk", cluster.Loaded{Digest: digest, At: written.Add(-time.Hour)}, true},
		{"another one, read since", cluster.Loaded{Digest: "sha256:00", At: written.Add(time.Hour)}, false},
		{"it does not say, and has read since", cluster.Loaded{At: written.Add(time.Second)}, true},
		{"it does not say, and has not", cluster.Loaded{At: written.Add(-time.Second)}, false},
		{"it says nothing", cluster.Loaded{}, false},
	} {
		if got := judgeLoaded(tc.loaded, content, written); (got == "") != tc.in {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

// Where Secrets may lie elsewhere none are counted as being there.
func TestSecretsFolder(t *testing.T) {
	for _, tc := range []struct {
		flag, value, want, refused string
	}{
		{want: "/registry/secrets/"},
		{flag: "etcd-prefix", value: "/venus", want: "/venus/secrets/"},
		{flag: "etcd-prefix", value: "venus/", want: "/venus/secrets/"},
		{flag: "etcd-servers-overrides", value: "/secrets#https://192.0.2.1:2379", refused: "--etcd-servers-overrides"},
	} {
		spec := &hosts.Spec{Kubernetes: hosts.Kubernetes{ExtraArgs: map[string]map[string]string{layout.APIServer: {tc.flag: tc.value}}}}
		got, err := secretsFolder(spec)
		if got != tc.want || (err != nil) != (tc.refused != "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
			t.Errorf("%s=%s: %q, %v", tc.flag, tc.value, got, err)
		}
	}
}
