package agent

import (
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/etcdops"
)

// cluster is a cluster's health: members that begin with "-" do not answer,
// with "+" are learners.
func clusterHealth(healthy bool, members ...string) etcdops.Health {
	h := etcdops.Health{Healthy: healthy}
	for _, name := range members {
		m := etcdops.MemberHealth{Name: strings.TrimLeft(name, "-+"), Version: "3.7.3", Learner: name[0] == '+'}
		if name[0] == '-' {
			m.Version = ""
		}
		h.Members = append(h.Members, m)
	}
	return h
}

func TestJudgeTurn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		health etcdops.Health
		want   permit
		wrong  string
	}{
		{"all are well", clusterHealth(true, "a", "b", "c"), turnClaimed, ""},
		{"another is ill", clusterHealth(true, "a", "-b", "c"), 0, "[b] do not answer"},
		{"two others of five are ill", clusterHealth(true, "a", "-b", "-c", "d", "e"), 0, "[b c] do not answer"},
		{"one other of five is ill", clusterHealth(true, "a", "-b", "c", "d", "e"), turnClaimed, ""},
		{"it is ill itself", clusterHealth(true, "-a", "b", "c"), turnFree, ""},
		{"there is no quorum", clusterHealth(false, "a", "-b", "-c"), turnFree, ""},
		{"a learner does not count", clusterHealth(true, "a", "b", "c", "+d"), turnClaimed, ""},
		{"it is a learner", clusterHealth(true, "+a", "b", "c", "d"), turnFree, ""},
		{"two members", clusterHealth(true, "a", "b"), turnClaimed, ""},
		{"alone", clusterHealth(true, "a"), turnFree, ""},
		{"nobody answers", etcdops.Health{}, turnFree, ""},
	} {
		got, err := judgeTurn(tc.health, "a")
		if got != tc.want || (err == nil) != (tc.wrong == "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, %v; want %v, %q", tc.name, got, err, tc.want, tc.wrong)
		}
	}
}
