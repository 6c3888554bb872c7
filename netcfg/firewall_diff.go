package netcfg

import (
	"slices"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// diffFirewall returns what leads from one firewall to another, a change for
// each rule. They are applied together: whichever comes first edits the whole
// table in one transaction, and the others find their work done.
//
// Making a chain that drops, taking away an accepting rule or putting in a
// dropping one may cut connections and is disconnect, as is taking away or
// changing by whose address packets leave. Accepting more is quiet.
func diffFirewall(have, want *Firewall) []plan.Change {
	o := firewallOp{want}
	switch {
	case have == nil && want == nil:
		return nil
	case have == nil:
		effect := plan.Quiet
		if want.Base != "" || want.Forward != nil {
			effect = plan.Disconnect
		}
		return []plan.Change{change("firewall", plan.ActionCreate, effect, reasonMissing, "", want.String(), o)}
	case want == nil:
		effect := plan.Quiet
		if have.Masquerade != nil {
			effect = plan.Disconnect
		}
		return []plan.Change{change("firewall", plan.ActionDelete, effect, reasonUnwanted, have.String(), "", o)}
	}
	var changes []plan.Change
	for _, other := range have.Other {
		changes = append(changes, change("firewall "+other, plan.ActionDelete, plan.Disconnect, reasonTampered, other, "", o))
	}
	for _, name := range []string{inputChain, forwardChain, masqueradeChain} {
		changes = append(changes, diffChain(name, have.chain(name), want.chain(name), o)...)
	}
	for _, name := range idle(have, want) {
		changes = append(changes, change("firewall set "+name, plan.ActionDelete, plan.Quiet, reasonIdle, name, "", o))
	}
	return changes
}

const (
	reasonTampered = "somebody else changed nodeagent's table"
	reasonOther    = "the rule differs from the spec"
	reasonUnnamed  = "it is in nodeagent's table and the spec does not name it"
	reasonIdle     = "no rule uses it any more"
)

// chainKeys begin the keys of changes of a chain and of its rules.
var chainKeys = map[string][2]string{
	inputChain:      {"firewall", "firewall rule "},
	forwardChain:    {"firewall forward", "firewall forward rule "},
	masqueradeChain: {"firewall masquerade", "firewall masquerade rule "},
}

func diffChain(name string, have, want *firewallChain, o firewallOp) []plan.Change {
	key := chainKeys[name][0]
	drops := chainShapes[name].drops
	text := func(c *firewallChain) string {
		var alone Firewall
		alone.put(name, c.FirewallChain)
		return alone.String()
	}
	switch {
	case have == nil && want == nil:
		return nil
	case have == nil:
		return []plan.Change{change(key, plan.ActionCreate, loosens(!drops), reasonMissing, "", text(want), o)}
	case want == nil:
		return []plan.Change{change(key, plan.ActionDelete, loosens(drops), reasonUnwanted, text(have), "", o)}
	}
	var changes []plan.Change
	if have.Base != want.Base {
		changes = append(changes, change(key, plan.ActionUpdate, plan.Disconnect, reasonTampered, have.Base, want.Base, o))
	}
	rules := diffRules(name, have.Rules, want.Rules, o)
	if len(rules) == 0 && !slices.EqualFunc(have.Rules, want.Rules, FirewallRule.same) {
		rules = []plan.Change{change(key+" order", plan.ActionUpdate, plan.Quiet, "the rules are in another order", names(have.Rules), names(want.Rules), o)}
	}
	return append(changes, rules...)
}

// diffRules compares by name. A rule of the kernel without a name of ours, or
// with one that an earlier rule has, was put there by somebody else.
func diffRules(chain string, have, want []FirewallRule, o firewallOp) []plan.Change {
	begin := chainKeys[chain][1]
	var changes []plan.Change
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w.Name] = true
	}
	found := map[string]FirewallRule{}
	var extra []FirewallRule
	for _, r := range have {
		if _, twice := found[r.Name]; twice || !wanted[r.Name] {
			extra = append(extra, r)
			continue
		}
		found[r.Name] = r
	}
	for _, w := range want {
		h, ok := found[w.Name]
		key := begin + w.Name
		switch {
		case !ok:
			changes = append(changes, change(key, plan.ActionCreate, loosens(!w.Drop), reasonMissing, "", w.String(), o))
		case !h.same(w):
			changes = append(changes, change(key, plan.ActionUpdate, plan.Disconnect, reasonOther, h.String(), w.String(), o))
		}
	}
	keys := map[string]bool{}
	for _, r := range extra {
		key := begin + r.Name
		if _, taken := found[r.Name]; taken || r.Name == "" || keys[key] {
			key = begin + "without a name of its own: " + r.String()
		}
		if keys[key] {
			continue // the same rule several times: they go together
		}
		keys[key] = true
		changes = append(changes, change(key, plan.ActionDelete, loosens(r.Drop && r.Other == ""), reasonUnnamed, r.String(), "", o))
	}
	return changes
}

// loosens is the effect of an edit that lets more pass, or less.
func loosens(more bool) plan.Effect {
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
