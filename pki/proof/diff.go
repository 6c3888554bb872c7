package proof

import (
	"fmt"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Diff returns what must be done until every live port proves the pairs on
// disk. A component that is down gives no change: it reads the pair when it
// starts. It is pure.
func Diff(have, want State) []plan.Change {
	var changes []plan.Change
	for _, w := range want.Checks {
		h, ok := have.find(w)
		if !ok || h.Down || h.proves(w) {
			continue
		}
		changes = append(changes, change(h, w))
	}
	return changes
}

// proves tells whether the answer is the wanted one. A client's pair was renewed
// since it was wanted where another one was taken: that one lies on disk now.
func (c Check) proves(want Check) bool {
	if want.Client {
		return c.Serial != "" && c.Problem == ""
	}
	return c.Serial == want.Serial && c.Problem == ""
}

func (s State) find(like Check) (Check, bool) {
	for _, c := range s.Checks {
		if c.Certificate == like.Certificate && c.Address == like.Address && c.Client == like.Client {
			return c, true
		}
	}
	return Check{}, false
}

func change(have, want Check) plan.Change {
	c := plan.Change{
		Domain: Domain, Key: want.key(), Action: plan.ActionReload, Effect: plan.Restart,
		Before: "serial " + have.Serial, After: "serial " + want.Serial, Payload: job{want},
	}
	if want.Component == layout.Etcd {
		c.Effect = plan.Quorum
	}
	if !want.Client {
		c.Reason = "the port still serves another certificate than the one on disk"
		switch have.Serial {
		case "":
			c.Reason = have.Problem
		case want.Serial:
			c.Reason = "what the port serves is not trusted: " + have.Problem
		}
		return c
	}
	c.Before, c.After = "refused", "accepted"
	c.Effect = plan.Quiet
	c.Reason = fmt.Sprintf("%s does not take the pair: %s", want.Component, have.Problem)
	return c
}

// key names a check: "kube-apiserver at 127.0.0.1:6443", "kubelet-client at
// 127.0.0.1:6443".
func (c Check) key() string {
	if c.Client {
		return fmt.Sprintf("client %s at %s", c.Certificate, c.Address)
	}
	return fmt.Sprintf("server %s at %s", c.Certificate, c.Address)
}
