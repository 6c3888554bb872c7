package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/agent"
	attempts "github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// TestEveryEndOfAnApplyIsJSON whether it was made, was undone, or is left in part.
func TestEveryEndOfAnApplyIsJSON(t *testing.T) {
	made := agent.Result{{Domain: agent.DomainNetwork, Applied: 2}}
	left := agent.Result{{Domain: agent.DomainNetwork, Applied: 1, Remaining: []plan.Change{{Domain: agent.DomainNetwork, Action: plan.ActionCreate, Key: "route x"}}}}
	failed := agent.Result{{Domain: agent.DomainNetwork, Err: errors.New("no such device")}}
	verdicts := []attempts.Verdict{{Name: "gateway", Before: true, Lost: true, Detail: "timeout"}}
	for name, tc := range map[string]struct {
		trial agent.Trial
		want  string // of the JSON
		err   string // "" where all is well
	}{
		"made":   {agent.Trial{Result: made}, `"converged": true`, ""},
		"undone": {agent.Trial{Result: made, Undone: "gateway is lost", Verdicts: verdicts}, `"undone": "gateway is lost"`, "as it was before: gateway is lost"},
		"probes": {agent.Trial{Result: made, Undone: "gateway is lost", Verdicts: verdicts}, `"lost": true`, "as it was before"},
		"left":   {agent.Trial{Result: left}, `"route x"`, "did not converge"},
		"failed": {agent.Trial{Result: failed, Undone: "the change failed"}, `"error": "no such device"`, "as it was before"},
	} {
		var out strings.Builder
		err := printResult(&options{output: "json", stdout: &out, stderr: io.Discard}, tc.trial)
		if !json.Valid([]byte(out.String())) || !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s: no %s in\n%s", name, tc.want, out.String())
		}
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v, want %q", name, err, tc.err)
		}
	}
}
