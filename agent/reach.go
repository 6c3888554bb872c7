package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/netcfg"
)

// Cut is a way in, or one that the host needs, that its spec would certainly
// cut.
type Cut struct {
	// Text says which way, and by what.
	Text string
	// Line is the line of the fleet that does it, "cluster.toml:12"; empty where
	// it is what the spec does not say.
	Line string
	// Already tells that the way is cut now, too.
	Already bool
	// Partly tells that the other end has a name with further addresses, which
	// stay open.
	Partly bool
}

// Refuses tells whether the cut is a reason to refuse a change: it closes a way
// that is open.
func (c Cut) Refuses() bool { return !c.Already && !c.Partly }

// String returns the text with the line in front.
func (c Cut) String() string {
	if c.Line == "" {
		return c.Text
	}
	return c.Line + ": " + c.Text
}

// Cuts returns the ways that the network of the spec would certainly cut, where
// there is anything to change. session is the present SSH session as the
// environment variable SSH_CONNECTION has it (ssh(1)), empty for none. It writes
// nothing; it may ask DNS.
func (h *Host) Cuts(ctx context.Context, session string) ([]Cut, error) {
	want, err := h.wantNetwork()
	if err != nil {
		return nil, err
	}
	have, err := h.network.Observe(ctx, want)
	if err != nil || len(netcfg.Diff(have, want)) == 0 {
		return nil, err
	}
	ways := resolveWays(ctx, waysOf(h.Spec(), session))
	now, err := h.network.Surroundings(ctx, slices.Concat(ways...))
	if err != nil {
		return nil, err
	}
	return judge(h.Spec(), netcfg.Reach(want, have, now, slices.Concat(ways...)), ways), nil
}

// judge tells of ways, each given with one for every address of its other end,
// which of them are cut: a name is cut off when none of its addresses is left.
func judge(spec *hosts.Spec, found []netcfg.Cut, ways [][]netcfg.Way) []Cut {
	cuts := map[netcfg.Way]netcfg.Cut{}
	for _, c := range found {
		cuts[c.Way] = c
	}
	var list []Cut
	for _, addresses := range ways {
		var gone []netcfg.Cut
		fresh := 0
		for _, way := range addresses {
			if c, is := cuts[way]; is {
				gone = append(gone, c)
				if !c.Already {
					fresh++
				}
			}
		}
		partly := len(gone) < len(addresses)
		if len(gone) == 0 || partly && fresh == 0 {
			continue // what is lost of a name already is no news
		}
		// The first that is news says why.
		c := gone[max(0, slices.IndexFunc(gone, func(c netcfg.Cut) bool { return !c.Already }))]
		cut := Cut{Text: c.String(), Line: lineOf(spec, c.By), Already: fresh == 0, Partly: partly}
		switch {
		case partly:
			cut.Text = fmt.Sprintf("%s would lose %d of its %d addresses: %s", c.Way.Name, fresh, len(addresses), c.Why)
		case len(gone) > 1:
			cut.Text += fmt.Sprintf("; so are the others of its %d addresses", len(addresses))
		}
		list = append(list, cut)
	}
	return list
}

// Warnings are what a person should know of a plan of the domains: ways that it
// cuts, and names that it cannot overrule.
func (h *Host) Warnings(ctx context.Context, p plan.Plan, domains []Domain, session string) []string {
	var list []string
	if len(p.Domain(DomainNetwork)) > 0 {
		cuts, err := h.Cuts(ctx, session)
		if err != nil {
			list = append(list, fmt.Sprintf("whether the change cuts a way in is not known: %v", err))
		}
		for _, c := range cuts {
			list = append(list, c.String())
		}
	}
	if slices.ContainsFunc(domains, func(d Domain) bool { return d.Name() == DomainHostNames }) {
		list = append(list, h.nameWarnings(ctx)...)
	}
	return list
}

// lineOf is where the fleet says what cuts a way.
func lineOf(spec *hosts.Spec, by netcfg.CutBy) string {
	var fields []string
	switch {
	case by.Route.IsValid():
		i := slices.IndexFunc(spec.Network.Routes, func(r hosts.Route) bool {
			return r.Destination.Masked() == by.Route && cmp.Or(r.Table, hosts.MainTable) == by.Table
		})
		fields = []string{fmt.Sprintf("network.route[%d]", i), "network.route"}
	case by.Rule != 0:
		i := slices.IndexFunc(spec.Network.Rules, func(r hosts.Rule) bool { return r.Priority == by.Rule })
		fields = []string{fmt.Sprintf("network.rule[%d]", i), "network.rule"}
	case by.WireGuard:
		fields = []string{"network.wireguard"}
	case by.Firewall:
		fields = []string{"firewall.allow", "firewall"}
	}
	for _, field := range fields {
		if line := spec.Defined[field]; line != "" {
			return line
		}
	}
	return ""
}
