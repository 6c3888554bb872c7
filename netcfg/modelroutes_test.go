package netcfg

import (
	"fmt"
	"slices"
)

// The model's part for routes and rules.

func (m *model) put(o putRoute) error {
	r := o.route
	r.Adopt = false
	r.Metric = kernelMetric(&r)
	ways := r.Nexthops
	if len(ways) == 0 {
		ways = []Nexthop{{Device: r.Device}}
	}
	for _, n := range ways {
		if _, there := m.links[n.Device]; !there && n.Device != "" {
			return fmt.Errorf("no link %s", n.Device)
		}
	}
	for i, h := range m.routes {
		if !sameSlot(&h, &r) {
			continue
		}
		if o.replace {
			m.routes[i] = r
		}
		return nil
	}
	m.routes = append(m.routes, r)
	return nil
}

// loseLinks removes what lies over links that are deleted: an IPv4 route goes
// with any of its links (fib_sync_down_dev), an IPv6 one keeps its other ways.
func (m *model) loseLinks(gone map[string]bool) {
	m.routes = slices.DeleteFunc(m.routes, func(r Route) bool { return r.Destination.Addr().Is4() && r.over(gone) })
	m.loseWays(gone, func(Route) bool { return true })
}

// loseWays removes the ways over links, and routes that have no other.
func (m *model) loseWays(gone map[string]bool, which func(Route) bool) {
	var left []Route
	for _, r := range m.routes {
		if which(r) {
			var any bool
			if r, any = r.withoutLinks(gone); !any {
				continue
			}
		}
		left = append(left, r)
	}
	m.routes = left
}

// rule adds a rule behind those that are there, and deletes the first that is
// the same, its maker included.
func (m *model) rule(payload any) (done bool, err error) {
	switch o := payload.(type) {
	case putRule:
		r := o.rule
		r.Adopt, r.Exact = false, false
		if !slices.Contains(m.rules, r) {
			m.rules = append(m.rules, r)
		}
		return true, nil
	case deleteRule:
		if i := slices.Index(m.rules, o.rule); i >= 0 {
			m.rules = slices.Delete(m.rules, i, i+1)
		}
		return true, nil
	}
	return false, nil
}
