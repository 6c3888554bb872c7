package netcfg

import (
	"context"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// FirewallList is the firewall as it is on the host, compared with the spec.
type FirewallList struct {
	// Wanted tells that the spec has a table of ours, Present that the kernel
	// has it. With neither the firewall is off, and nodeagent leaves the host's
	// packet filter alone.
	Wanted  bool `json:"wanted"`
	Present bool `json:"present"`
	// Converged tells that the kernel has exactly what the spec says.
	Converged bool          `json:"converged"`
	Chains    []ListedChain `json:"chains"`
	// Other is what is in nodeagent's table and not nodeagent's.
	Other []string `json:"other,omitempty"`
	// Tables are those of others, which are never touched.
	Tables []Foreign `json:"tables"`
}

// ListedChain is one chain in the order in which it decides.
type ListedChain struct {
	// Name is "input", "forward" or "postrouting".
	Name  string       `json:"name"`
	State ListedState  `json:"state"`
	Was   string       `json:"was,omitempty"` // the base that differs
	Rules []ListedRule `json:"rules"`
}

// ListedRule is one rule with what it has matched so far.
type ListedRule struct {
	Name  string      `json:"name"`
	Rule  string      `json:"rule"` // in words, as the kernel has it
	State ListedState `json:"state"`
	// Want is the rule in words as the spec says it, where that differs.
	Want string `json:"want,omitempty"`
	Counter
}

// ListedState tells how a part stands to the spec.
type ListedState string

// The states of a listed part.
const (
	ListedSame    ListedState = "same"
	ListedDiffers ListedState = "differs"
	ListedMissing ListedState = "missing" // from the kernel
	ListedExtra   ListedState = "extra"   // not in the spec
)

// ListFirewall reads the firewall of the calling thread's network namespace and
// compares it with the spec. It writes nothing. Where other tables cannot be
// read the list is returned with an error.
func ListFirewall(ctx context.Context, spec *hosts.Spec) (FirewallList, error) {
	have, err := readTable(ctx)
	if err != nil {
		return FirewallList{}, err
	}
	list := listFirewall(have, wantFirewall(spec))
	list.Tables, err = foreignTables(ctx)
	return list, err
}

func listFirewall(have firewallTable, want *Firewall) FirewallList {
	list := FirewallList{
		Wanted: want != nil, Present: have.firewall != nil, Converged: len(diffFirewall(have.firewall, want)) == 0,
		Chains: []ListedChain{},
	}
	if have.firewall != nil {
		list.Other = have.firewall.Other
	}
	for _, name := range []string{inputChain, forwardChain, masqueradeChain} {
		if c, any := listChain(name, have, want.chain(name)); any {
			list.Chains = append(list.Chains, c)
		}
	}
	return list
}

func listChain(name string, have firewallTable, want *firewallChain) (ListedChain, bool) {
	h := have.firewall.chain(name)
	c := ListedChain{Name: name, State: ListedSame, Rules: []ListedRule{}}
	switch {
	case h == nil && want == nil:
		return c, false
	case h == nil:
		c.State = ListedMissing
		h = &firewallChain{name: name}
	case want == nil:
		c.State = ListedExtra
		want = &firewallChain{name: name}
	case h.Base != want.Base:
		c.State, c.Was = ListedDiffers, h.Base
	}
	c.Rules = listRules(h.Rules, have.counts[name], want.Rules)
	if count, ok := have.restCount[name]; ok && have.rest[name] != 0 {
		c.Rules = append(c.Rules, ListedRule{Name: restName, Rule: restRule.String(), State: c.State, Counter: count})
	}
	return c, true
}

// listRules are the rules of the kernel in its order, and after them those that
// it lacks.
func listRules(have []FirewallRule, counts []Counter, want []FirewallRule) []ListedRule {
	rules := []ListedRule{}
	found := map[string]bool{}
	for i, h := range have {
		r := ListedRule{Name: h.Name, Rule: h.String(), State: ListedExtra, Counter: counts[i]}
		at := slices.IndexFunc(want, func(w FirewallRule) bool { return w.Name == h.Name })
		if at >= 0 && !found[h.Name] {
			found[h.Name] = true
			r.State = ListedSame
			if !want[at].same(h) {
				r.State, r.Want = ListedDiffers, want[at].String()
			}
		}
		rules = append(rules, r)
	}
	for _, w := range want {
		if !found[w.Name] {
			rules = append(rules, ListedRule{Name: w.Name, State: ListedMissing, Want: w.String()})
		}
	}
	return rules
}
