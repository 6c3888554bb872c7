package pki

import (
	"slices"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// Obtain returns the changes that get one wanted certificate and the trust
// bundle of its authority anew, whatever lies on disk: what Diff finds no reason
// for but a person, or another issuer, gives one. It is nil for a certificate
// that is not wanted.
func Obtain(want State, name, reason string) []plan.Change {
	w := want.certificate(name)
	if w == nil {
		return nil
	}
	d := differ{want: want}
	d.add("trust "+w.CA, plan.ActionUpdate, plan.Reload, reason, "", "certificate of the authority "+w.CA, trustOp{w.CA})
	d.add("certificate "+name, plan.ActionIssue, plan.Quiet, reason, "", describeWanted(w.Request), issueOp{w.Request, want})
	return slices.Clip(d.changes)
}
