package netcfg

import (
	"slices"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// diffFirewall returns what leads from one firewall to another, a change for
// each rule. They are applied together: whichever comes first replaces the
// whole table in one transaction, and the others find their work done.
//
// Making the firewall, taking away an accepting rule or putting in a dropping
// one may cut connections and is disconnect. Accepting more is quiet.
func diffFirewall(have, want *Firewall) []plan.Change {
	o := firewallOp{want}
	switch {
	case have == nil && want == nil:
		return nil
	case have == nil:
		return []plan.Change{change("firewall", plan.ActionCreate, plan.Disconnect, reasonMissing, "", want.String(), o)}
	case want == nil:
		return []plan.Change{change("firewall", plan.ActionDelete, plan.Quiet, reasonUnwanted, have.String(), "", o)}
	}
	var changes []plan.Change
	if have.Base != want.Base {
		changes = append(changes, change("firewall", plan.ActionUpdate, plan.Disconnect, reasonTampered, have.Base, want.Base, o))
	}
	for _, other := range have.Other {
		changes = append(changes, change("firewall "+other, plan.ActionDelete, plan.Disconnect, reasonTampered, other, "", o))
	}
	rules := diffRules(have.Rules, want.Rules, o)
	if len(rules) == 0 && !slices.EqualFunc(have.Rules, want.Rules, FirewallRule.same) {
		rules = []plan.Change{change("firewall order", plan.ActionUpdate, plan.Quiet, "the rules are in another order", names(have.Rules), names(want.Rules), o)}
	}
	return append(changes, rules...)
}

const (
	reasonTampered = "somebody else changed nodeagent's table"
	reasonOther    = "the rule differs from the spec"
)

// diffRules compares by name. A rule of the kernel without a name of ours, or
// with one that an earlier rule has, was put there by somebody else.
func diffRules(have, want []FirewallRule, o firewallOp) []plan.Change {
	var changes []plan.Change
	found := map[string]FirewallRule{}
	var extra []FirewallRule
	for _, r := range have {
		wanted := slices.ContainsFunc(want, func(w FirewallRule) bool { return w.Name == r.Name })
		if _, twice := found[r.Name]; twice || !wanted {
			extra = append(extra, r)
			continue
		}
		found[r.Name] = r
	}
	for _, w := range want {
		h, ok := found[w.Name]
		key := "firewall rule " + w.Name
		switch {
		case !ok:
			changes = append(changes, change(key, plan.ActionCreate, ruleEffect(!w.Drop), reasonMissing, "", w.String(), o))
		case !h.same(w):
			changes = append(changes, change(key, plan.ActionUpdate, plan.Disconnect, reasonOther, h.String(), w.String(), o))
		}
	}
	keys := map[string]bool{}
	for _, r := range extra {
		key := "firewall rule " + r.Name
		if _, taken := found[r.Name]; taken || r.Name == "" || keys[key] {
			key = "firewall rule without a name of its own: " + r.String()
		}
		if keys[key] {
			continue // the same rule several times: they go together
		}
		keys[key] = true
		changes = append(changes, change(key, plan.ActionDelete, ruleEffect(r.Drop && r.Other == ""), reasonUnnamed, r.String(), "", o))
	}
	return changes
}

const reasonUnnamed = "it is in nodeagent's table and the spec does not name it"

// ruleEffect is the effect of an edit that lets more pass, or less.
func ruleEffect(more bool) plan.Effect {
	if more {
		return plan.Quiet
	}
	return plan.Disconnect
}

func names(rules []FirewallRule) string {
	var list []string
	for _, r := range rules {
		list = append(list, r.Name)
	}
	return join(list)
}

// firewallOp makes nodeagent's table what is wanted; nil deletes it.
type firewallOp struct{ want *Firewall }
