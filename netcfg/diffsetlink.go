package netcfg

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

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
