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

// routeDiffer carries what every route is compared with.
type routeDiffer struct {
	routeDiff
	have  map[netip.Prefix][]Route
	used  map[Route]bool // satisfies a wanted route, or is replaced
	lost  map[netip.Addr]bool
	links linkDiff
}

func diffRoutes(have, want State, links linkDiff, lost map[netip.Addr]bool) routeDiff {
	d := &routeDiffer{have: map[netip.Prefix][]Route{}, used: map[Route]bool{}, lost: lost, links: links}
	for _, r := range have.Routes {
		d.have[r.Destination] = append(d.have[r.Destination], r)
	}
	for _, gateway := range []bool{false, true} {
		for _, w := range want.Routes {
			if w.Via.IsValid() == gateway && !links.absent[w.Device] {
				d.route(w)
			}
		}
	}
	for _, h := range have.Routes {
		if h.Protocol == RouteProtocol && !d.used[h] && !wantedOverAbsent(h, want.Routes, links) {
			d.delete = append(d.delete, change(routeKey(h), plan.ActionDelete, plan.Disconnect,
				reasonUnwanted, h.String(), "", deleteRoute{h}))
		}
	}
	return d.routeDiff
}

// wantedOverAbsent spares a route of ours whose wanted form needs a link that
// is not to be had: a bad way is better than none.
func wantedOverAbsent(h Route, routes []Route, links linkDiff) bool {
	for _, w := range routes {
		if links.absent[w.Device] && sameSlot(h, w) {
			return true
		}
	}
	return false
}

func (d *routeDiffer) route(w Route) {
	var inSlot []Route
	takesOver := Route{}
	for _, h := range d.have[w.Destination] {
		switch {
		case sameSlot(h, w):
			inSlot = append(inSlot, h)
		case h.Metric > kernelMetric(w) && !takesOver.Destination.IsValid():
			takesOver = h
		}
	}
	for _, h := range inSlot {
		if satisfies(h, w) && !d.goes(h) {
			d.used[h] = true
			return
		}
	}
	switch {
	case len(inSlot) > 0:
		d.replace(inSlot[0], w)
	case takesOver.Destination.IsValid():
		d.put = append(d.put, change(routeKey(w), plan.ActionCreate, plan.Disconnect,
			fmt.Sprintf("%s; it takes over from %q, made by %s", reasonMissing, takesOver, takesOver.maker()),
			"", w.String(), putRoute{route: w}))
	default:
		d.put = append(d.put, change(routeKey(w), plan.ActionCreate, plan.Quiet, reasonMissing, "", w.String(), putRoute{route: w}))
	}
}

func (d *routeDiffer) replace(h, w Route) {
	d.used[h] = true
	reason := "the spec wants other values"
	if satisfies(h, w) {
		reason = "its link or its source address is about to go"
	}
	before := h.String()
	if h.Protocol != RouteProtocol {
		reason += fmt.Sprintf("; %s made the route that is there", h.maker())
		before += fmt.Sprintf(" (made by %s)", h.maker())
	}
	d.put = append(d.put, change(routeKey(w), plan.ActionUpdate, plan.Disconnect, reason, before, w.String(), putRoute{route: w, replace: true}))
}

// goes tells whether the kernel will remove the route by itself, because of the
// links and addresses that are deleted later.
func (d *routeDiffer) goes(h Route) bool {
	return d.links.doomed[h.Device] || h.Destination.Addr().Is4() && d.lost[h.Source]
}

// sameSlot tells whether the kernel has room for only one of the two: it tells
// routes of a table apart by destination and metric.
func sameSlot(h, w Route) bool {
	return h.Destination == w.Destination && h.Metric == kernelMetric(w)
}

// kernelMetric is the metric with which a wanted route reads back: an IPv6
// route without one gets 1024 (IP6_RT_PRIO_USER).
func kernelMetric(w Route) int {
	if w.Metric == 0 && w.Destination.Addr().Is6() {
		return 1024
	}
	return w.Metric
}

// satisfies tells whether the route that is there does what the wanted one
// says, comparing only what the spec sets.
func satisfies(h, w Route) bool {
	return h.Other == "" && h.Via == w.Via &&
		(w.Protocol == 0 || w.Protocol == RouteProtocol || h.Protocol == w.Protocol) &&
		(w.Device == "" || h.Device == w.Device) &&
		(!w.Source.IsValid() || h.Source == w.Source)
}
