package netcfg

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// needsHardware tells whether a physical link is wanted that is not simply the
// one of its name.
func (s State) needsHardware(names []string) bool {
	return slices.ContainsFunc(s.Links, func(l Link) bool {
		return l.Kind == hosts.LinkPhysical && (l.Match != (hosts.LinkMatch{}) || !slices.Contains(names, l.Name))
	})
}

// resolved returns the wanted state with the names that its physical links have
// on the host that was observed: by hardware address, by the place on the bus,
// or by an alternative name. Routes, rules, masters, parents and the firewall
// then name the link as the kernel does, and the spec's name becomes an
// alternative one, unless another link bears it. A link that is not found is
// Lost; its name, where another link of the host has it, is changed to one that
// no link can have, so that nothing is done to that other link.
func (s State) resolved(have State) State {
	if len(have.Hardware) == 0 || !s.needsHardware(have.Names) {
		return s
	}
	m := matcher{have: have, names: map[string]string{}, taken: map[string]string{}, lost: map[string]string{}}
	// Those that say what they are come before those that are only called so.
	for _, matched := range []bool{true, false} {
		for _, l := range s.Links {
			if l.Kind == hosts.LinkPhysical && (l.Match != (hosts.LinkMatch{})) == matched {
				m.find(l)
			}
		}
	}
	return s.renamed(m)
}

type matcher struct {
	have  State
	names map[string]string // of the spec to the host's
	taken map[string]string // of the host to the spec's
	lost  map[string]string // of the spec to the reason
}

func (m *matcher) find(l Link) {
	var found []string
	for _, h := range m.have.Hardware {
		if h.is(l) {
			found = append(found, h.Name)
		}
	}
	what := l.matchWord()
	switch {
	case len(found) == 0:
		m.lose(l, fmt.Sprintf("%s is not on this host; %s", what, candidates(m.have.Hardware)))
	case len(found) > 1:
		m.lose(l, fmt.Sprintf("%s is not one link but several: %s", what, strings.Join(found, ", ")))
	case m.taken[found[0]] != "":
		m.lose(l, fmt.Sprintf("%s is %s, which the spec's link %q is too", what, found[0], m.taken[found[0]]))
	default:
		m.names[l.Name], m.taken[found[0]] = found[0], l.Name
	}
}

func (m *matcher) lose(l Link, reason string) {
	m.lost[l.Name] = reason
	if slices.Contains(m.have.Names, l.Name) {
		m.names[l.Name] = l.Name + " (not found)"
	}
}

// is tells whether the hardware is the wanted link.
func (h Hardware) is(l Link) bool {
	switch {
	case l.Match.MAC != "":
		return strings.EqualFold(h.MAC, l.Match.MAC)
	case l.Match.Path != "":
		return h.Path == l.Match.Path
	}
	return h.Name == l.Name || slices.Contains(h.AltNames, l.Name)
}

func (l Link) matchWord() string {
	switch {
	case l.Match.MAC != "":
		return fmt.Sprintf("link %q, the one with hardware address %s,", l.Name, l.Match.MAC)
	case l.Match.Path != "":
		return fmt.Sprintf("link %q, the one at %s,", l.Name, l.Match.Path)
	}
	return fmt.Sprintf("link %q", l.Name)
}

// candidates is the end of the message about hardware that is missing: "links
// found: eth0 (02:00:00:00:00:01, 0000:03:00.0), eth1 (…)".
func candidates(hardware []Hardware) string {
	var names []string
	for _, h := range hardware {
		what := []string{}
		for _, word := range []string{h.MAC, h.Path} {
			if word != "" {
				what = append(what, word)
			}
		}
		name := h.Name
		if len(what) > 0 {
			name += " (" + strings.Join(what, ", ") + ")"
		}
		names = append(names, name)
	}
	return foundLinks(names)
}

// renamed is the state by the names that were found.
func (s State) renamed(m matcher) State {
	name := func(spec string) string { return cmp.Or(m.names[spec], spec) }
	// Outside of links and routes a name that was not found stays as it is: it
	// must match nothing, and no link that is called so is the one meant.
	renamed := s
	links := map[string]Link{}
	for _, l := range s.Links {
		l.Lost = m.lost[l.Name]
		spec := l.Name
		l.Name, l.Master, l.Parent, l.Peer = name(l.Name), name(l.Master), name(l.Parent), name(l.Peer)
		if l.Lost == "" && l.Name != spec && !slices.Contains(m.have.Names, spec) && !slices.Contains(l.AltNames, spec) {
			l.AltNames = slices.Sorted(slices.Values(append(slices.Clone(l.AltNames), spec)))
		}
		if primary := l.setting("primary"); primary != "" {
			l.Settings = withSetting(l.Settings, "primary", name(primary))
		}
		links[l.Name] = l
	}
	renamed.Links = mastersFirst(links)
	renamed.Routes = renamedRoutes(s.Routes, name)
	renamed.Rules = slices.Clone(s.Rules)
	for i, r := range renamed.Rules {
		renamed.Rules[i].Inbound, renamed.Rules[i].Outbound = name(r.Inbound), name(r.Outbound)
	}
	renamed.Firewall = renamedFirewall(s.Firewall, name)
	return renamed
}

func renamedRoutes(routes []Route, name func(string) string) []Route {
	renamed := slices.Clone(routes)
	for i := range renamed {
		renamed[i].Device = name(renamed[i].Device)
		renamed[i].Nexthops = slices.Clone(renamed[i].Nexthops)
		for j, hop := range renamed[i].Nexthops {
			renamed[i].Nexthops[j].Device = name(hop.Device)
		}
		renamed[i] = renamed[i].normal()
	}
	sortRoutes(renamed)
	return renamed
}

func renamedFirewall(f *Firewall, name func(string) string) *Firewall {
	if f == nil {
		return nil
	}
	renamed := *f
	renamed.Rules = renamedFirewallRules(f.Rules, name)
	renamed.Forward, renamed.Masquerade = renamedChain(f.Forward, name), renamedChain(f.Masquerade, name)
	return &renamed
}

func renamedChain(c *FirewallChain, name func(string) string) *FirewallChain {
	if c == nil {
		return nil
	}
	return &FirewallChain{Base: c.Base, Rules: renamedFirewallRules(c.Rules, name)}
}

func renamedFirewallRules(rules []FirewallRule, name func(string) string) []FirewallRule {
	renamed := slices.Clone(rules)
	for i, r := range renamed {
		renamed[i].Interfaces, renamed[i].Outbound = renamedList(r.Interfaces, name), renamedList(r.Outbound, name)
	}
	return renamed
}

func renamedList(names []string, name func(string) string) []string {
	if len(names) == 0 {
		return names
	}
	var renamed []string
	for _, n := range names {
		renamed = append(renamed, name(n))
	}
	slices.Sort(renamed)
	return slices.Compact(renamed)
}
