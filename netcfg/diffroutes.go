package netcfg

import (
	"fmt"
	"net/netip"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// routeDiff is the changes of routes by when they happen.
type routeDiff struct {
	put    []plan.Change
	delete []plan.Change
}

// routeDiffer carries what every route is compared with. Both lists are sorted,
// so that one walk over them finds what belongs together: a table may hold
// many thousands.
type routeDiffer struct {
	routeDiff
	have  []Route
	used  []bool        // of have: satisfies a wanted route, is replaced, or is spared
	later []plan.Change // routes with a gateway
	last  []plan.Change // routes that swallow packets
	lost  map[netip.Addr]bool
	links linkDiff
}

func diffRoutes(have, want State, links linkDiff, lost map[netip.Addr]bool) routeDiff {
	d := &routeDiffer{have: sortedRoutes(have.Routes), lost: lost, links: links}
	d.used = make([]bool, len(d.have))
	wanted := sortedRoutes(want.Routes)
	from := 0
	for i := range wanted {
		w := &wanted[i]
		for from < len(d.have) && compareDestinations(&d.have[from], w) < 0 {
			from++
		}
		to := from
		for to < len(d.have) && compareDestinations(&d.have[to], w) == 0 {
			to++
		}
		d.route(w, from, to)
	}
	d.put = append(append(d.put, d.later...), d.last...)
	for i := range d.have {
		h := &d.have[i]
		if h.Protocol == RouteProtocol && !d.used[i] {
			d.delete = append(d.delete, change(routeKey(h), plan.ActionDelete, plan.Disconnect,
				reasonUnwanted, h.String(), "", deleteRoute{*h}))
		}
	}
	return d.routeDiff
}

// compareDestinations orders by table and destination.
func compareDestinations(a, b *Route) int {
	if a.Table != b.Table {
		return a.Table - b.Table
	}
	return comparePrefixes(a.Destination, b.Destination)
}

// route compares one wanted route with those to its destination in its table,
// have[from:to].
func (d *routeDiffer) route(w *Route, from, to int) {
	if w.over(d.links.absent) {
		reduced, any := w.withoutLinks(d.links.absent)
		if !any {
			d.spare(w, from, to)
			return
		}
		w = &reduced // the other ways serve until the link is there
	}
	ours, theirs := -1, -1 // in the slot of w
	takesOver := -1
	for i := from; i < to; i++ {
		h := &d.have[i]
		switch {
		case d.used[i]:
		case !sameSlot(h, w):
			if takesOver < 0 && kernelMetric(h) > kernelMetric(w) {
				takesOver = i
			}
		case satisfies(h, w) && !d.goes(h):
			d.used[i] = true
			return
		case h.Protocol == RouteProtocol && ours < 0:
			ours = i
		case h.Protocol != RouteProtocol && theirs < 0:
			theirs = i
		}
	}
	switch {
	case theirs >= 0 && !d.mayReplace(&d.have[theirs], w):
		if ours >= 0 {
			d.used[ours] = true
		}
		d.refuse(&d.have[theirs], w)
	case ours >= 0:
		d.replace(ours, w)
	case theirs >= 0:
		d.replace(theirs, w)
	case takesOver >= 0:
		h := &d.have[takesOver]
		d.add(w, change(routeKey(w), plan.ActionCreate, plan.Disconnect,
			fmt.Sprintf("%s; it takes over from %q, made by %s", reasonMissing, h, h.maker()),
			"", w.String(), putRoute{route: *w}))
	default:
		d.add(w, change(routeKey(w), plan.ActionCreate, plan.Quiet, reasonMissing, "", w.String(), putRoute{route: *w}))
	}
}

// spare keeps a route of ours whose wanted form needs a link that is not to be
// had: a bad way is better than none.
func (d *routeDiffer) spare(w *Route, from, to int) {
	for i := from; i < to; i++ {
		if sameSlot(&d.have[i], w) {
			d.used[i] = true
		}
	}
}

// mayReplace tells whether somebody else's route may be replaced: where the
// spec adopts it, or where it does what the spec says and would go all the same
// with what nodeagent deletes.
func (d *routeDiffer) mayReplace(h, w *Route) bool {
	return w.Adopt || satisfies(h, w) && d.goes(h)
}

// refuse plans what cannot be done: the plan shows it, applying it fails.
func (d *routeDiffer) refuse(h, w *Route) {
	reason := fmt.Sprintf("a route that %s made is in its place; adopt = true in the spec takes it over, another metric puts one beside it", h.maker())
	d.add(w, change(routeKey(w), plan.ActionUpdate, plan.Quiet, reason,
		fmt.Sprintf("%s (made by %s)", h, h.maker()), w.String(), blocked{fmt.Sprintf("%s: it is %q", reason, h)}))
}

func (d *routeDiffer) replace(index int, w *Route) {
	h := &d.have[index]
	d.used[index] = true
	reason := "the spec wants other values"
	effect := plan.Disconnect
	switch {
	case h.Protocol != RouteProtocol && w.Adopt && d.sameValues(h, w):
		reason, effect = "the spec adopts it", plan.Quiet
	case satisfies(h, w):
		reason = "its link or its source address is about to go"
	}
	before := h.String()
	if h.Protocol != RouteProtocol {
		reason += fmt.Sprintf("; %s made the route that is there", h.maker())
		before += fmt.Sprintf(" (made by %s)", h.maker())
	}
	d.add(w, change(routeKey(w), plan.ActionUpdate, effect, reason, before, w.String(), putRoute{route: *w, replace: true}))
}

// sameValues tells whether only the maker differs.
func (d *routeDiffer) sameValues(h, w *Route) bool {
	unasked := *w
	unasked.Adopt = false
	return satisfies(h, &unasked) && !d.goes(h)
}

// add keeps routes with a gateway for later, since those without may lead to
// it, and those that swallow packets for last, since the kernel would find the
// gateway in their hands.
func (d *routeDiffer) add(w *Route, c plan.Change) {
	switch {
	case w.Type != "":
		d.last = append(d.last, c)
	case w.gateway():
		d.later = append(d.later, c)
	default:
		d.put = append(d.put, c)
	}
}

// goes tells whether the kernel will remove the route, or one of its ways, by
// itself, because of the links and addresses that are deleted later.
func (d *routeDiffer) goes(h *Route) bool {
	return h.over(d.links.doomed) || h.Destination.Addr().Is4() && d.lost[h.Source]
}
