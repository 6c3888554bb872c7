package netcfg

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// linkDiff is the changes of links by when they happen, and what they mean for
// the addresses and routes that depend on the links.
type linkDiff struct {
	remake []plan.Change // deletions of links that are made anew
	make   []plan.Change // creations and updates
	drop   []plan.Change // deletions of links that are no longer wanted

	gone   map[string]bool // removed by remake: nothing of them is left when the rest begins
	doomed map[string]bool // removed by drop, after everything else
	absent map[string]bool // wanted and not to be had
}

// linkDiffer carries what all the steps of one comparison look at.
type linkDiffer struct {
	linkDiff
	have   map[string]Link
	wanted map[string]Link
	names  []string
	made   map[string]bool // created so far
}

func diffLinks(have, want State) linkDiff {
	d := &linkDiffer{
		linkDiff: linkDiff{gone: map[string]bool{}, doomed: map[string]bool{}, absent: map[string]bool{}},
		have:     byName(have.Links), wanted: byName(want.Links), names: have.Names, made: map[string]bool{},
	}
	for _, w := range want.Links {
		d.remakeMisfit(w)
	}
	d.have = byName(have.without(d.gone).Links)
	for _, w := range want.Links {
		d.makeOrSet(w)
	}
	for _, h := range have.Links {
		d.dropUnwanted(h)
	}
	return d.linkDiff
}

// fits tells whether the link that is there can become the wanted one. Anything
// serves as a physical link: the spec says with that word that it makes none.
func fits(h, w Link) bool {
	if w.Kind == hosts.LinkPhysical {
		return true
	}
	return h.Kind == w.Kind && (w.Kind != hosts.LinkVeth || h.Peer == w.Peer)
}

// remakeMisfit deletes a link of ours that cannot become the wanted one; it is
// then created like one that is missing.
func (d *linkDiffer) remakeMisfit(w Link) {
	h, there := d.have[w.Name]
	if !there || !h.Owned || fits(h, w) || d.gone[h.Name] {
		return
	}
	reason := fmt.Sprintf("it is a %s and the spec wants a %s", h.kindWord(), w.kindWord())
	d.remake = append(d.remake, d.deletion(h, reason))
	d.gone[h.Name] = true
	if h.Kind == hosts.LinkVeth && h.Peer != "" {
		d.gone[h.Peer] = true
	}
}

func (d *linkDiffer) deletion(h Link, reason string) plan.Change {
	return change(linkKey(h.Name), plan.ActionDelete, plan.Disconnect, reason, h.String(), "",
		deleteLink{name: h.Name, bridges: d.keep(h.Master)})
}

func (d *linkDiffer) makeOrSet(w Link) {
	h, there := d.have[w.Name]
	switch {
	case !there && !creatable(w.Kind):
		d.refuse(w, "", fmt.Sprintf("link %q is not on this host; %s", w.Name, foundLinks(d.names)))
	case !there:
		d.create(w)
	case !fits(h, w):
		d.refuse(w, h.String(), fmt.Sprintf("link %q is a %s that nodeagent did not make; remove or rename it, or change the spec", w.Name, h.kindWord()))
	default:
		d.set(h, w)
	}
}

// refuse plans what cannot be done: the plan shows it, applying it fails.
func (d *linkDiffer) refuse(w Link, before, reason string) {
	d.absent[w.Name] = true
	d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, reason, before, w.String(), blocked{reason}))
}

func (d *linkDiffer) create(w Link) {
	if w.Kind == hosts.LinkVeth {
		if d.absent[w.Peer] {
			d.refuse(w, "", fmt.Sprintf("its other end %q cannot be made", w.Peer))
			return
		}
		if peer, there := d.have[w.Peer]; there {
			d.refuse(w, "", fmt.Sprintf("its other end %q is there already, a %s that nodeagent did not make; remove or rename it, or change the spec", w.Peer, peer.kindWord()))
			return
		}
	}
	after := w.String()
	if w.Kind == hosts.LinkVeth && d.made[w.Peer] {
		// The pair was created as one; what is left are this end's settings.
		o := setLink{name: w.Name, mark: true, mtu: w.MTU, up: true, bridges: d.keep(w.Master)}
		if w.Master != "" {
			o.master = &w.Master
		}
		d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, "it is made with its other end "+w.Peer, "", after, o))
	} else {
		d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, reasonMissing, "", after,
			createLink{link: w, bridges: d.keep(w.Master)}))
	}
	d.made[w.Name] = true
}

// set plans what differs between a link that stays and its spec.
func (d *linkDiffer) set(h, w Link) {
	o := setLink{name: w.Name}
	var reasons []string
	effect := plan.Quiet
	after := h
	if h.Owned && !h.Marked {
		o.mark = true
		reasons = append(reasons, "nodeagent made it and was stopped before it set the alias")
	}
	if w.MTU != 0 && h.MTU != w.MTU {
		o.mtu, after.MTU = w.MTU, w.MTU
		reasons = append(reasons, fmt.Sprintf("the spec wants mtu %d", w.MTU))
		if h.Kind == hosts.LinkPhysical {
			effect = plan.Disconnect
		}
	}
	if reason := d.masterReason(h, w); reason != "" {
		o.master, after.Master = &w.Master, w.Master
		reasons = append(reasons, reason)
		effect = plan.Disconnect
	}
	switch {
	case !h.Up && (w.Up || !w.Exact):
		o.up, after.Up = true, true
		reasons = append(reasons, "it is down")
	case h.Up && !w.Up && w.Exact:
		o.down, after.Up = true, false
		reasons = append(reasons, "it was down")
		effect = plan.Disconnect
	}
	if len(reasons) > 0 {
		o.bridges = d.keep(slices.Compact([]string{h.Master, after.Master})...)
		d.make = append(d.make, change(linkKey(w.Name), plan.ActionUpdate, effect, strings.Join(reasons, "; "), h.String(), after.String(), o))
	}
}

// masterReason says why the master changes, or "" where it does not. A spec
// without a master takes the link from a bridge of ours, where an earlier spec
// put it, but not from somebody else's.
func (d *linkDiffer) masterReason(h, w Link) string {
	switch {
	case h.Master == w.Master:
		return ""
	case w.Master != "":
		return fmt.Sprintf("the spec wants master %s", w.Master)
	case w.Exact:
		return "it had no master"
	case d.have[h.Master].Owned:
		return "the spec wants no master"
	}
	return ""
}

func (d *linkDiffer) dropUnwanted(h Link) {
	if _, wanted := d.wanted[h.Name]; wanted || !h.Owned || !creatable(h.Kind) || d.gone[h.Name] || d.doomed[h.Name] {
		return
	}
	if h.Kind == hosts.LinkVeth && h.Peer != "" {
		if _, wanted := d.wanted[h.Peer]; wanted {
			return // it lives as long as its other end
		}
		d.doomed[h.Peer] = true
	}
	d.doomed[h.Name] = true
	d.drop = append(d.drop, d.deletion(h, reasonUnwanted))
}

// keep returns the masters whose MTU is wanted.
func (d *linkDiffer) keep(masters ...string) []keepMTU {
	var keep []keepMTU
	for _, master := range masters {
		w, ok := d.wanted[master]
		if ok && w.Kind == hosts.LinkBridge && w.MTU != 0 && !d.absent[master] {
			keep = append(keep, keepMTU{bridge: master, mtu: w.MTU})
		}
	}
	return keep
}
