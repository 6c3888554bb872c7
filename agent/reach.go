package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kernel"
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
	// Field is the field in that line, "network.route[2]".
	Field string
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

// Cuts returns the ways that the network of the spec, and its sysctls, would
// certainly cut, where there is anything to change. session is the present SSH
// session as the environment variable SSH_CONNECTION has it (ssh(1)), empty for
// none; only are the domains that are to be changed, none for all. It writes
// nothing; it may ask DNS.
func (h *Host) Cuts(ctx context.Context, session string, only []string) ([]Cut, error) {
	changes := func(domain string) bool { return len(only) == 0 || slices.Contains(only, domain) }
	var sysctls map[string]string
	if changes(DomainKernel) {
		var err error
		if sysctls, err = h.sysctlsOfWays(ctx); err != nil {
			return nil, err
		}
	}
	if !changes(DomainNetwork) && len(sysctls) == 0 {
		return nil, nil
	}
	want, err := h.wantNetwork()
	if err != nil {
		return nil, err
	}
	have, err := h.network.Observe(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(sysctls) == 0 && len(netcfg.Diff(have, want)) == 0 {
		if !h.heed {
			h.seenNetwork.keep(have, time.Now())
		}
		return nil, nil
	}
	ways := resolveWays(ctx, waysOf(h.Spec(), session))
	now, err := h.network.Surroundings(ctx, slices.Concat(ways...))
	if err != nil {
		return nil, err
	}
	if !changes(DomainNetwork) {
		want = have
	}
	found := netcfg.Reach(want, have, now.With(sysctls), slices.Concat(ways...))
	if !changes(DomainNetwork) {
		found = slices.DeleteFunc(found, func(c netcfg.Cut) bool { return c.By.Sysctl == "" })
	}
	return judge(h.Spec(), found, ways), nil
}

// sysctlsOfWays are the sysctls of the spec that may cut ways, nil where they
// all are as they are to be.
func (h *Host) sysctlsOfWays(ctx context.Context) (map[string]string, error) {
	want, err := h.wantKernel()
	if err != nil {
		return nil, err
	}
	want.Modules = nil
	want.Sysctls = slices.DeleteFunc(slices.Clone(want.Sysctls), func(s kernel.Sysctl) bool { return !netcfg.JudgesSysctl(s.Name) })
	if len(want.Sysctls) == 0 {
		return nil, nil
	}
	have, err := kernel.Observe(ctx, h.kernel, want)
	if err != nil || len(kernel.Diff(have, want)) == 0 {
		return nil, err
	}
	return valuesOf(want), nil
}

// valuesOf are the values of sysctls by their names.
func valuesOf(s kernel.State) map[string]string {
	values := map[string]string{}
	for _, sysctl := range s.Sysctls {
		values[sysctl.Name] = sysctl.Value
	}
	return values
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
		field, line := placeOf(spec, c.By)
		cut := Cut{Text: c.String(), Line: line, Field: field, Already: fresh == 0, Partly: partly}
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
	if len(p.Domain(DomainNetwork))+len(p.Domain(DomainKernel)) > 0 {
		var only []string
		for _, d := range domains {
			only = append(only, d.Name())
		}
		cuts, err := h.Cuts(ctx, session, only)
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
	if slices.ContainsFunc(domains, func(d Domain) bool { return d.Name() == DomainPKI }) {
		list = append(list, h.loginProblems()...)
		list = append(list, h.certificateWarnings(ctx)...)
	}
	return list
}

// placeOf is the field that cuts a way and where the fleet has it, empty where
// it has none.
func placeOf(spec *hosts.Spec, by netcfg.CutBy) (field, line string) {
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
	case by.Sysctl != "":
		fields = []string{"kernel.sysctl." + by.Sysctl, "kernel.sysctl"}
	}
	for _, field := range fields {
		if line := spec.Defined[field]; line != "" {
			return field, line
		}
	}
	return "", ""
}
