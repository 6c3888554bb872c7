package netcfg

import (
	"fmt"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func (d *linkDiffer) setMaster(c *linkChange, h, w Link) {
	reason := d.masterReason(h, w)
	if reason == "" {
		if (w.Exact || h.Master == "" && !h.Owned) && h.Placed != w.Placed {
			c.op.placed = &w.Placed
			c.line("port "+placedWord(h), "port "+placedWord(w))
			reason := "nodeagent made it a port, which it is no longer"
			if h.Master != "" {
				reason = "it was not by nodeagent that it was a port"
			}
			c.because(plan.Quiet, reason)
		}
		return
	}
	c.op.master, c.op.placed, c.after.Master = &w.Master, &w.Placed, w.Master
	c.op.primary = d.isPrimary(w)
	if d.flushes(h.Master) || d.flushes(w.Master) {
		d.cycled[h.Name] = true
		c.op.up = w.Up
	}
	if d.wanted[w.Master].Kind == hosts.LinkBond {
		reason += ", for which it goes down for about a second" + negotiation(d.wanted[w.Master])
	}
	if bridge := d.effective(w.Master); bridge.setting("stp") == "on" {
		reason += fmt.Sprintf(", which passes its frames after 2 × forward_delay, %s", 2*forwardDelay(bridge))
	}
	c.because(plan.Disconnect, reason)
}

func placedWord(l Link) string {
	if l.Placed {
		return "by nodeagent"
	}
	return "by somebody else"
}

// effective is the link with the settings that it has once it is set.
func (d *linkDiffer) effective(name string) Link {
	l := d.have[name]
	l.Settings = append(slices.Clone(d.wanted[name].Settings), l.Settings...)
	return l
}

// isPrimary tells whether the link is the primary port of the bond that it is
// about to become a port of.
func (d *linkDiffer) isPrimary(w Link) bool {
	bond := d.wanted[w.Master]
	return bond.Kind == hosts.LinkBond && bond.setting("primary") == w.Name
}

// masterReason says why the master changes, or "" where it does not. A spec
// without a master takes the link from a master of ours, or that nodeagent gave
// it, where an earlier spec put it, but not from somebody else's.
func (d *linkDiffer) masterReason(h, w Link) string {
	switch {
	case h.Master == w.Master:
		return ""
	case w.Master != "":
		return fmt.Sprintf("the spec wants master %s", w.Master)
	case w.Exact:
		return "it had no master"
	case d.have[h.Master].Owned, h.Placed:
		return "the spec wants no master"
	}
	return ""
}

// setPort plans the settings of a port. One that changes its master has none of
// them yet.
func (d *linkDiffer) setPort(c *linkChange, h, w Link) {
	if c.op.master != nil {
		c.op.port = w.Port
		if w.Master != "" {
			c.op.vlans = d.vlans(Link{}, w)
		}
		if c.op.vlans != nil {
			c.line("vlans as the bridge has them", "vlans "+c.op.vlans.String())
		}
		for _, s := range c.op.port {
			c.line("port "+s.Name+" as the bridge has it", "port "+s.Name+" "+s.Value)
		}
		return
	}
	if h.Master == "" {
		return
	}
	for _, s := range changesAmong(portAttributes, h.Port, w.Port) {
		c.op.port = append(c.op.port, Setting{s.name, s.after})
		c.line("port "+s.text(s.before), "port "+s.text(s.after))
		c.because(s.effect(), "the spec wants port "+s.text(s.after))
	}
	if vlans := d.vlans(h, w); vlans != nil {
		c.op.vlans = vlans
		c.line("vlans "+h.VLANs.String(), "vlans "+vlans.String())
		c.because(plan.Disconnect, "the spec wants vlans "+vlans.String())
	}
}

// vlans returns the VLANs to be set of a port, nil where they are not managed or
// as they should be. A port that names none for untagged frames has the bridge's
// default one.
func (d *linkDiffer) vlans(h, w Link) *VLANs {
	if w.VLANs == nil {
		return nil
	}
	after := *w.VLANs
	bridge := d.effective(w.Master)
	if pvid := number(bridge.setting("default_pvid")); after.PVID == 0 && !w.Exact {
		if bridge.setting("default_pvid") == "" {
			pvid = 1 // as a bridge is made
		}
		if pvid != 0 && !slices.Contains(after.Tagged, pvid) {
			after.PVID = pvid
		}
	}
	after = *after.sorted()
	if h.VLANs == nil {
		return &after
	}
	old := number(d.have[w.Master].setting("default_pvid"))
	if now := h.VLANs.withDefault(old, number(bridge.setting("default_pvid"))); now.String() == after.String() {
		return nil
	}
	return &after
}

func number(text string) int {
	n := 0
	_, _ = fmt.Sscan(text, &n)
	return n
}

// withDefault is what the kernel makes of a port's VLANs when the bridge's
// default one changes (__br_vlan_set_default_pvid): a port that has the old one
// for untagged frames both ways gets the new one in its place.
func (v VLANs) withDefault(old, now int) VLANs {
	had := v.PVID == old && slices.Contains(v.Untagged, old)
	if old == now || old != 0 && !had || slices.Contains(v.Tagged, now) || slices.Contains(v.Untagged, now) {
		return v
	}
	moved := VLANs{PVID: v.PVID, Tagged: v.Tagged}
	moved.Untagged = slices.DeleteFunc(slices.Clone(v.Untagged), func(id int) bool { return old != 0 && id == old })
	if had {
		moved.PVID = 0
	}
	if now != 0 {
		moved.PVID, moved.Untagged = now, append(moved.Untagged, now)
	}
	return *moved.sorted()
}
