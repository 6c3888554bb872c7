package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// settingChange is one setting that is another than wanted.
type settingChange struct {
	attribute
	before, after string
}

func (c settingChange) text(value string) string {
	if value == "" {
		value = "none"
	}
	return c.name + " " + value
}

// changedSettings returns the settings of the link's kind that differ, in the
// order in which they are set.
func changedSettings(h, w Link) []settingChange {
	return changesAmong(kindAttributes[w.Kind], h.Settings, kernelSettings(h, w))
}

func changesAmong(attributes []attribute, have, want []Setting) []settingChange {
	var changed []settingChange
	for _, a := range attributes {
		after, managed := settingOf(want, a.name)
		if before, _ := settingOf(have, a.name); managed && !a.same(before, after) {
			changed = append(changed, settingChange{a, before, after})
		}
	}
	return changed
}

// same tells whether the kernel's value is the wanted one as the kernel keeps
// it. It counts many times in jiffies, of which not every number is a number of
// centiseconds: one that reads back a centisecond short is the same.
func (a attribute) same(have, want string) bool {
	if have == want || a.form != centiseconds {
		return have == want
	}
	h, herr := time.ParseDuration(have)
	w, werr := time.ParseDuration(want)
	short := w.Truncate(10*time.Millisecond) - h
	return herr == nil && werr == nil && short >= 0 && short <= 10*time.Millisecond
}

// kernelSettings are the wanted settings as the kernel would hold them. A bond's
// delays are whole multiples of its miimon. Its primary it tells only when that
// link is a port; before, the port itself brings it.
func kernelSettings(h, w Link) []Setting {
	if w.Kind != hosts.LinkBond {
		return w.Settings
	}
	settings := slices.Clone(w.Settings)
	miimon := w.setting("miimon")
	if miimon == "" {
		miimon = h.setting("miimon")
	}
	every, _ := time.ParseDuration(miimon)
	for i, s := range settings {
		if s.Name != "up_delay" && s.Name != "down_delay" || every <= 0 {
			continue
		}
		if delay, err := time.ParseDuration(s.Value); err == nil {
			settings[i].Value = delay.Truncate(every).String()
		}
	}
	return settings
}

// fixed tells whether the change needs a new link. Of those that the kernel
// makes live by themselves, macvlan's passthru and a VXLAN's other family, group
// or none cannot be changed to or from (macvlan_changelink, vxlan_config_validate).
func (c settingChange) fixed() bool {
	switch {
	case c.when == fixed:
		return true
	case c.form == address:
		b, errB := netip.ParseAddr(c.before)
		a, errA := netip.ParseAddr(c.after)
		return errA != nil || errB != nil || a.Is4() != b.Is4() || a.IsMulticast() || b.IsMulticast()
	case c.form == word32:
		return c.before == "passthru" || c.after == "passthru"
	}
	return false
}

// effect is what changing the setting of a link that stays disturbs.
func (c settingChange) effect() plan.Effect {
	if c.when == live {
		return plan.Quiet
	}
	return plan.Disconnect
}

// reason says what is wanted, and what the change does to the link.
func (c settingChange) reason(w Link) string {
	wanted := "the spec wants " + c.text(c.after)
	switch {
	case c.when == linkDown:
		return wanted + ", for which it goes down for about a second" + negotiation(w)
	case c.when == portless:
		return wanted + ", for which it goes down and its ports are taken out for about a second" + negotiation(w)
	case c.name == "stp" && c.after == "on":
		return fmt.Sprintf("%s: a port that comes up passes frames after 2 × forward_delay, %s", wanted, 2*forwardDelay(w))
	case c.name == "vlan_filtering", c.name == "default_pvid":
		return wanted + ": frames of VLANs that a port does not name are dropped"
	}
	return wanted
}

func negotiation(w Link) string {
	if w.setting("mode") == mode8023AD {
		return ", and LACP takes some seconds more to agree"
	}
	return ""
}

// forwardDelay is the bridge's, or the kernel's 15 seconds.
func forwardDelay(bridge Link) time.Duration {
	if delay, err := time.ParseDuration(bridge.setting("forward_delay")); err == nil {
		return delay
	}
	return 15 * time.Second
}

// linkChange collects what differs between a link that stays and its spec.
type linkChange struct {
	op            setLink
	before, after Link
	lines         [2][]string // settings before and after
	reasons       []string
	effect        plan.Effect
}

func (c *linkChange) because(effect plan.Effect, reason string) {
	c.reasons = append(c.reasons, reason)
	c.effect = max(c.effect, effect)
}

func (c *linkChange) line(before, after string) {
	c.lines[0], c.lines[1] = append(c.lines[0], before), append(c.lines[1], after)
}

// set plans what differs between a link that stays and its spec.
func (d *linkDiffer) set(h, w Link) {
	c := &linkChange{op: setLink{name: w.Name}, before: h, after: h}
	d.setOwner(c, h, w)
	d.setKind(c, h, w)
	d.setMTU(c, h, w)
	d.setMAC(c, h, w)
	d.setMaster(c, h, w)
	d.setPort(c, h, w)
	setAltNames(c, h, w)
	switch {
	case !h.Up && w.Up:
		c.op.up, c.after.Up = true, true
		c.because(plan.Quiet, "it is down")
	case h.Up && !w.Up:
		c.op.down, c.after.Up = true, false
		reason := "the spec wants it down"
		if w.Exact {
			reason = "it was down"
		}
		c.because(plan.Disconnect, reason)
	}
	if len(c.reasons) == 0 {
		return
	}
	c.op.bridges = d.keep(slices.Compact([]string{h.Master, c.after.Master})...)
	text := func(l Link, lines []string) string { return strings.Join(append([]string{l.String()}, lines...), "\n") }
	d.make = append(d.make, change(linkKey(w.Name), plan.ActionUpdate, c.effect, strings.Join(c.reasons, "; "),
		text(c.before, c.lines[0]), text(c.after, c.lines[1]), c.op))
}

// setOwner marks what is ours, takes over what the spec adopts, and on the way
// back gives that up again.
func (d *linkDiffer) setOwner(c *linkChange, h, w Link) {
	switch {
	case h.Owned && !h.Marked && w.Owned:
		c.op.mark = true
		c.because(plan.Quiet, "nodeagent made it and was stopped before it set the alias")
	case !h.Owned && w.Owned:
		c.op.mark, c.op.adopt = true, true
		c.line("alias "+fmt.Sprintf("%q", h.Alias), "alias "+fmt.Sprintf("%q", LinkAlias))
		c.because(plan.Quiet, "the spec takes it over; "+makerOf(h)+" made it")
	case h.Owned && !w.Owned && w.Exact:
		c.op.alias = &w.Alias
		c.line("alias "+fmt.Sprintf("%q", h.Alias), "alias "+fmt.Sprintf("%q", w.Alias))
		c.because(plan.Quiet, "it was not nodeagent's")
	}
}

func (d *linkDiffer) setKind(c *linkChange, h, w Link) {
	if h.Kind != w.Kind && !w.Exact {
		return
	}
	h.Settings = slices.Clone(h.Settings)
	want := w
	want.Kind = h.Kind
	for _, s := range changedSettings(h, want) {
		if s.form == linkIndex && d.have[s.after].Master != w.Name {
			continue // the port brings it
		}
		c.op.settings = append(c.op.settings, Setting{s.name, s.after})
		c.line(s.text(s.before), s.text(s.after))
		merged := h
		merged.Settings = append(slices.Clone(w.Settings), h.Settings...)
		c.because(s.effect(), s.reason(merged))
		if s.when == portless && keepsMAC(w) {
			c.op.mac = w.MAC // without ports the kernel gives the bond a random one
		}
	}
	if _, rests := settingOf(c.op.settings, "miimon"); rests {
		// The kernel keeps delays as multiples of it, so that they move too.
		for _, name := range []string{"up_delay", "down_delay"} {
			value, managed := settingOf(kernelSettings(h, want), name)
			if _, set := settingOf(c.op.settings, name); managed && !set {
				c.op.settings = append(c.op.settings, Setting{name, value})
			}
		}
	}
}

func (d *linkDiffer) setMTU(c *linkChange, h, w Link) {
	moved := d.moved[w.Master] && h.Master == w.Master
	if w.MTU == 0 || h.MTU == w.MTU && !moved {
		return
	}
	c.op.mtu, c.after.MTU = w.MTU, w.MTU
	effect, reason := plan.Quiet, fmt.Sprintf("the spec wants mtu %d", w.MTU)
	if h.MTU == w.MTU {
		reason += ", and its bond is about to change it"
	}
	if h.Kind == hosts.LinkPhysical {
		effect = plan.Disconnect
	}
	if h.Kind == hosts.LinkBond {
		d.moved[w.Name], effect = true, plan.Disconnect
	}
	c.because(effect, reason)
}

// keepsMAC tells whether the link can have the wanted address. A bond that moves
// addresses with its ports says yes to any other, and takes none
// (bond_set_mac_address in bond_main.c).
func keepsMAC(w Link) bool {
	failOver := w.setting("fail_over_mac")
	return w.MAC != "" && failOver != "active" && failOver != "follow"
}

// setMAC leaves out ports of a bond: they have the bond's address.
func (d *linkDiffer) setMAC(c *linkChange, h, w Link) {
	if !keepsMAC(w) || strings.EqualFold(h.MAC, w.MAC) || d.wanted[w.Master].Kind == hosts.LinkBond {
		return
	}
	c.op.mac = w.MAC
	c.line("mac "+h.MAC, "mac "+w.MAC)
	reason := "the spec wants mac " + w.MAC + ": neighbours have to learn it"
	if h.Kind == hosts.LinkPhysical {
		reason += ", and it goes down for about a second where the driver asks for that"
	}
	c.because(plan.Disconnect, reason)
}

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

func setAltNames(c *linkChange, h, w Link) {
	var add, drop []string
	for _, name := range w.AltNames {
		if !slices.Contains(h.AltNames, name) {
			add = append(add, name)
		}
	}
	for _, name := range h.AltNames {
		if w.Exact && !slices.Contains(w.AltNames, name) {
			drop = append(drop, name)
		}
	}
	if len(add)+len(drop) == 0 {
		return
	}
	c.op.altNames, c.op.dropAltNames = add, drop
	words := func(names []string) string {
		if len(names) == 0 {
			return "no alternative names"
		}
		return "also named " + strings.Join(names, " ")
	}
	after := slices.DeleteFunc(slices.Clone(h.AltNames), func(name string) bool { return slices.Contains(drop, name) })
	after = append(after, add...)
	slices.Sort(after)
	c.line(words(h.AltNames), words(after))
	if len(add) > 0 {
		c.because(plan.Quiet, "the spec also names it "+strings.Join(add, " and "))
	} else {
		c.because(plan.Quiet, "it was not named "+strings.Join(drop, " and "))
	}
}
