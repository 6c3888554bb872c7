package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// manyForeign is how many routes of one maker in one table are listed each. A
// routing daemon may have a million.
const manyForeign = 20

// foreignRoutes lists the routes of all tables that are neither nodeagent's nor
// the kernel's, and that do not serve as a wanted one.
func (sys *System) foreignRoutes(kernel kernelLinks, want State) ([]Foreign, error) {
	serves := map[routeTarget][]*Route{}
	for i := range want.Routes {
		w := &want.Routes[i]
		target := routeTarget{w.Table, w.Destination}
		serves[target] = append(serves[target], w)
	}
	keep := func(r *Route) bool {
		return r.Protocol != RouteProtocol && !slices.Contains([]int{unix.RTPROT_KERNEL, unix.RTPROT_REDIRECT, unix.RTPROT_RA}, r.Protocol)
	}
	var routes []Route
	var failed []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := dump(func() ([]Route, error) {
			return sys.listRoutes(kernel, routeFilter{family: family, keep: keep}, nil)
		})
		routes = append(routes, found...)
		failed = append(failed, err)
	}
	failed = append(failed, sys.fillObjects(kernel, routes))
	routes = slices.DeleteFunc(routes, func(h Route) bool {
		return slices.ContainsFunc(serves[routeTarget{h.Table, h.Destination}], func(w *Route) bool {
			return sameSlot(&h, w) && satisfies(&h, w)
		})
	})
	sortRoutes(routes)
	return foreignOf(routes), errors.Join(failed...)
}

// foreignOf lists routes, those of a maker who has very many in one table as one.
func foreignOf(routes []Route) []Foreign {
	type heap struct{ table, protocol int }
	count := map[heap]int{}
	for i := range routes {
		count[heap{routes[i].Table, routes[i].Protocol}]++
	}
	var list []Foreign
	for i := range routes {
		r := &routes[i]
		h := heap{r.Table, r.Protocol}
		switch {
		case count[h] > manyForeign:
			list = append(list, Foreign{
				Kind: "route", Name: fmt.Sprintf("%d routes in table %d", count[h], cmp.Or(r.Table, hosts.MainTable)),
				Detail: "such as " + r.String(), By: r.maker(),
			})
			count[h] = 0 // listed
		case count[h] > 0:
			list = append(list, Foreign{Kind: "route", Name: strings.TrimPrefix(routeKey(r), "route "), Detail: r.String(), By: r.maker()})
		}
	}
	return list
}

// foreignRules lists the policy rules that are neither nodeagent's nor the
// kernel's, and that do not serve as a wanted one.
func (sys *System) foreignRules(want State) ([]Foreign, error) {
	rules, err := sys.listRules(func(r Rule) bool {
		return r.Protocol != RouteProtocol && r.Protocol != unix.RTPROT_KERNEL &&
			!slices.ContainsFunc(want.Rules, func(w Rule) bool { return r.samePlace(w) && r.does(w) && !w.Adopt })
	})
	var list []Foreign
	for _, r := range rules {
		list = append(list, Foreign{Kind: "rule", Name: strings.TrimPrefix(ruleKey(r), "rule "), Detail: r.String(), By: maker(r.Protocol)})
	}
	return list, err
}
