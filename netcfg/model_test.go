package netcfg

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// A model of what the kernel does upon each edit, as an oracle for the pure
// laws of Diff. The same cases run against the real kernel, which the model
// has to agree with.

// simulate applies changes to an observed state.
func simulate(have State, changes []plan.Change) (State, error) {
	m := &model{links: byName(have.Links), routes: slices.Clone(have.Routes), rules: slices.Clone(have.Rules)}
	for _, c := range changes {
		if err := m.apply(c.Payload); err != nil {
			return State{}, fmt.Errorf("%s: %w", c, err)
		}
	}
	return m.state(), nil
}

type model struct {
	links  map[string]Link
	routes []Route
	rules  []Rule
}

// state is what Observe would return for the wanted state that led here.
func (m *model) state() State {
	var s State
	for _, l := range m.links {
		l.Addresses = slices.Clone(l.Addresses)
		sortAddresses(l.Addresses)
		s.Links = append(s.Links, l)
		s.Names = append(s.Names, l.Name)
	}
	slices.SortFunc(s.Links, func(a, b Link) int { return compareStrings(a.Name, b.Name) })
	slices.Sort(s.Names)
	s.Routes = slices.Clone(m.routes)
	sortRoutes(s.Routes)
	s.Rules = slices.Clone(m.rules)
	sortRules(s.Rules)
	return s
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (m *model) apply(payload any) error {
	switch o := payload.(type) {
	case createLink:
		return m.create(o)
	case setLink:
		return m.set(o)
	case deleteLink:
		return m.delete(o)
	case addAddress:
		return m.add(o.link, o.address, o.replace)
	case replaceAddresses:
		routes := slices.Clone(m.routes)
		for _, old := range o.old {
			if err := m.remove(o.link, old); err != nil {
				return err
			}
		}
		if o.old[0].Addr().Is4() {
			m.routes = routes // they are put back
		}
		for _, a := range o.new {
			if err := m.add(o.link, a, false); err != nil {
				return err
			}
		}
		return nil
	case deleteAddress:
		return m.remove(o.link, o.prefix)
	case putRoute:
		return m.put(o)
	case deleteRoute:
		wanted := o.route.Destination.Addr()
		for i, r := range m.routes {
			if wanted.Is6() {
				r.Source = o.route.Source // which went with its address; the kernel does not ask
			}
			if sameRoute(&r, &o.route) && r.Protocol == RouteProtocol {
				m.routes = slices.Delete(m.routes, i, i+1)
				return nil
			}
		}
		return nil
	}
	if done, err := m.rule(payload); done {
		return err
	}
	return fmt.Errorf("the model knows no %T", payload)
}

func (m *model) add(link string, a Address, replace bool) error {
	l, there := m.links[link]
	if !there {
		return fmt.Errorf("no link %s", link)
	}
	if a.Scope == scopeGlobal || a.Prefix.Addr().Is6() {
		a.Scope = ""
	}
	if a.Valid != 0 && a.Preferred == 0 && !a.Deprecated {
		a.Preferred = a.Valid
	}
	if a.Deprecated {
		a.Preferred = 0
	}
	a.NoDAD = a.NoDAD && a.Prefix.Addr().Is6()
	l.Addresses = slices.Clone(l.Addresses)
	m.links[link] = l
	if i := slices.IndexFunc(l.Addresses, func(h Address) bool { return h.Prefix == a.Prefix }); i >= 0 {
		if replace {
			a.Owned, a.Scope = l.Addresses[i].Owned, l.Addresses[i].Scope
			l.Addresses[i] = a
		}
		return nil
	}
	if _, clash := sameIPv6(l.Addresses, a.Prefix); clash {
		return fmt.Errorf("address %s exists on %s with another prefix length", a, link)
	}
	l.Addresses = append(l.Addresses, a)
	m.links[link] = l
	return nil
}

func (m *model) remove(link string, p netip.Prefix) error {
	l, there := m.links[link]
	if !there {
		return fmt.Errorf("no link %s", link)
	}
	l.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), func(a Address) bool { return a.Prefix == p })
	m.links[link] = l
	m.flushSource(p.Addr())
	if p.Addr().Is4() && !slices.ContainsFunc(l.Addresses, func(a Address) bool { return a.Prefix.Addr().Is4() }) {
		m.loseWays(map[string]bool{link: true}, func(r Route) bool { return r.Destination.Addr().Is4() })
	}
	return nil
}

// flushSource removes the IPv4 routes that prefer an address which no link has;
// IPv6 routes lose their preference.
func (m *model) flushSource(address netip.Addr) {
	for _, l := range m.links {
		for _, a := range l.Addresses {
			if a.Prefix.Addr() == address {
				return
			}
		}
	}
	m.routes = slices.DeleteFunc(m.routes, func(r Route) bool { return address.Is4() && r.Source == address })
	for i, r := range m.routes {
		if r.Source == address {
			m.routes[i].Source = netip.Addr{}
		}
	}
}
