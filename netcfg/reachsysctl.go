package netcfg

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// The folders of sysctls of links (Documentation/networking/ip-sysctl.rst).
const (
	confIPv4 = "net.ipv4.conf."
	confIPv6 = "net.ipv6.conf."
)

// JudgesSysctl tells whether [Reach] knows what the sysctl of that name does to
// ways.
func JudgesSysctl(name string) bool {
	_, key, ok := splitConf(name)
	return ok && slices.Contains([]string{"rp_filter", "disable_ipv6", "forwarding", "accept_ra"}, key)
}

// splitConf takes the name of a link's sysctl apart: "net.ipv4.conf.eth0/1.rp_filter"
// is rp_filter of eth0.1.
func splitConf(name string) (link, key string, ok bool) {
	rest, six := strings.CutPrefix(name, confIPv6)
	if !six {
		if rest, ok = strings.CutPrefix(name, confIPv4); !ok {
			return "", "", false
		}
	}
	link, key, ok = strings.Cut(rest, ".")
	if (key == "rp_filter") == six {
		return "", "", false // the other family's, or none's
	}
	return strings.ReplaceAll(link, "/", "."), key, ok
}

func confName(folder, link, key string) string {
	return folder + strings.ReplaceAll(link, ".", "/") + "." + key
}

// With returns the surroundings with sysctls that are to be set, by their
// canonical names (net.ipv4.conf.eth0/1.rp_filter).
func (s Surroundings) With(sysctls map[string]string) Surroundings {
	s.wanted = sysctls
	return s
}

// reversePath is rp_filter by link as it is.
func (s Surroundings) reversePath() map[string]string {
	values := map[string]string{}
	for name, value := range s.sysctls {
		if link, key, ok := splitConf(name); ok && key == "rp_filter" {
			values[link] = value
		}
	}
	return values
}

// sysctlEffect is what setting one sysctl does to the picture.
type sysctlEffect struct {
	name, value string
	apply       func(*picture)
}

func (e sysctlEffect) String() string { return e.name + " = " + e.value }

// sysctlEffects are those of the sysctls that are to be set, in the order of
// their names, as far as they change anything.
func (s Surroundings) sysctlEffects() []sysctlEffect {
	var list []sysctlEffect
	for _, name := range slices.Sorted(maps.Keys(s.wanted)) {
		value := s.wanted[name]
		is, known := s.sysctls[name]
		link, key, ok := splitConf(name)
		if !ok || known && is == value {
			continue
		}
		if apply := s.effect(link, key, value); apply != nil {
			list = append(list, sysctlEffect{name, value, apply})
		}
	}
	return list
}

func (s Surroundings) effect(link, key, value string) func(*picture) {
	switch {
	case key == "rp_filter":
		return func(p *picture) {
			p.reversePath = maps.Clone(p.reversePath)
			if p.reversePath == nil {
				p.reversePath = map[string]string{}
			}
			p.reversePath[link] = value
		}
	case key == "disable_ipv6" && value == "1":
		return func(p *picture) { p.dropIPv6(func(name string) bool { return s.losesIPv6(link, name) }) }
	case key == "forwarding" && value == "1":
		// rt6_purge_dflt_routers in net/ipv6/route.c, whichever link forwards.
		return func(p *picture) {
			p.routes = slices.DeleteFunc(slices.Clone(p.routes), func(r pathRoute) bool {
				return r.advertised && len(r.hops) == 1 && s.after(confName(confIPv6, r.hops[0], "accept_ra")) == "1"
			})
		}
	}
	return nil
}

// losesIPv6 tells whether disable_ipv6 of one link, or of all, is that of the
// named one: its own, if it is to be set too, is what stays.
func (s Surroundings) losesIPv6(set, name string) bool {
	if name == "lo" || set != "all" {
		return set == name && name != "lo"
	}
	if name != "" {
		own, said := s.wanted[confName(confIPv6, name, "disable_ipv6")]
		return !said || own == "1"
	}
	for other, value := range s.wanted { // the link without a name may be any
		if _, key, _ := splitConf(other); key == "disable_ipv6" && value != "1" {
			return false
		}
	}
	return true
}

// after is a sysctl's value once those that are wanted are set, empty where it
// is not known.
func (s Surroundings) after(name string) string {
	if value, said := s.wanted[name]; said {
		return value
	}
	return s.sysctls[name]
}

// dropIPv6 takes the addresses and routes of links without IPv6 out.
func (p *picture) dropIPv6(from func(link string) bool) {
	p.addresses = slices.DeleteFunc(slices.Clone(p.addresses), func(a pathAddress) bool {
		return a.prefix.Addr().Is6() && from(a.link)
	})
	var routes []pathRoute
	for _, r := range p.routes {
		if r.to.Addr().Is6() && r.kind == routeUnicast && len(r.hops) > 0 {
			r.hops = slices.DeleteFunc(slices.Clone(r.hops), from)
			if len(r.hops) == 0 {
				continue
			}
		}
		routes = append(routes, r)
	}
	p.routes = routes
}

// bySysctl blames a cut on the sysctls that are to be set, where the way would
// be open without them.
func bySysctl(why *reason, w Way, plain, arrivals picture, effects []sysctlEffect) *reason {
	if why == nil || len(effects) == 0 || plain.cuts(w, arrivals) != nil {
		return why
	}
	for _, e := range effects {
		p := plain
		e.apply(&p)
		if alone := p.cuts(w, arrivals); alone != nil {
			return &reason{kind: CutSysctl, text: fmt.Sprintf("with %s %s", e, alone.text), by: CutBy{Sysctl: e.name}}
		}
	}
	var all []string
	for _, e := range effects {
		all = append(all, e.String())
	}
	return &reason{kind: CutSysctl, text: fmt.Sprintf("with %s %s", join(all), why.text), by: CutBy{Sysctl: effects[0].name}}
}

// strict tells whether packets that come in by the link must come by the way
// back to their source: rp_filter is the higher value of the link's own and that
// of all, and 1 is strict (ip-sysctl.rst).
func (p picture) strict(link string) bool {
	if link == "" || p.links[p.links[link].master].kind == "vrf" {
		return false
	}
	return max(p.reversePath["all"], p.reversePath[link]) == "1"
}

// strays returns why the other end's packets are dropped where they come in:
// reverse path filtering is strict on every link by which they may come, and the
// way back leads by none of these.
func (p picture) strays(w Way, arrivals []string) *reason {
	remote, local := w.Remote.Addr().Unmap(), w.Local.Addr().Unmap()
	if remote.Is6() || len(arrivals) == 0 {
		return nil
	}
	back, known := p.wayBack(flow{way: w, from: local, to: remote})
	if !known || len(back) == 0 {
		return nil
	}
	for _, link := range arrivals {
		if !p.strict(link) || slices.Contains(back, link) {
			return nil
		}
	}
	return &reason{
		kind: CutReversePath,
		text: fmt.Sprintf("strict reverse path filtering (rp_filter) drops what comes from %s on %s, since the way back leads by %s", remote, join(arrivals), join(back)),
	}
}

// wayBack are the links by which an answer may leave; known is false where it
// may be any.
func (p picture) wayBack(f flow) (links []string, known bool) {
	add := func(hops []string) {
		for _, hop := range hops {
			for _, name := range append(p.seenAs(hop), hop) {
				if !slices.Contains(links, name) {
					links = append(links, name)
				}
			}
		}
	}
	for _, rule := range p.rules {
		m := rule.matches(f)
		switch {
		case m == never:
			continue
		case rule.action == ruleOther:
			return nil, false
		case rule.action == ruleRefuse:
			if m == surely {
				return links, true
			}
			continue
		}
		hops, decided, clear := p.hopsOf(rule, f.to)
		if !clear {
			return nil, false
		}
		add(hops)
		if decided && m == surely {
			return links, true
		}
	}
	return links, true
}

// hopsOf are the links by which a table may lead to the address; decided tells
// that no later rule is asked, clear that all of them are known.
func (p picture) hopsOf(rule pathRule, to netip.Addr) (hops []string, decided, clear bool) {
	for _, r := range p.routes {
		if r.table != rule.table || !r.to.Contains(to) || !p.exists(r) {
			continue
		}
		if rule.suppress != nil && r.to.Bits() <= *rule.suppress || r.kind == routeThrow {
			if r.maybe {
				continue
			}
			return hops, false, true
		}
		switch {
		case r.kind == routeUnicast && len(r.hops) > 0 && !slices.Contains(r.hops, ""):
			hops = append(hops, r.hops...)
		case r.kind != routeRefuse:
			return nil, false, false
		}
		if !r.maybe {
			return hops, true, true
		}
	}
	return hops, false, true
}
