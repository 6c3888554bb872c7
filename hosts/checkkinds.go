package hosts

import (
	"slices"
	"time"
)

func durationOf(n *node) time.Duration { return parsed[time.Duration](n) }

// settings are the tables of a link that belong to one kind, and what a link of
// that kind cannot be made without.
var settings = []struct {
	key   string
	kind  LinkKind
	needs string
}{
	{"bridge", LinkBridge, ""},
	{"bond", LinkBond, "mode"},
	{"vlan", LinkVLAN, "id"},
	{"vxlan", LinkVXLAN, "id"},
	{"macvlan", LinkMacvlan, ""},
	{"vrf", LinkVRF, "table"},
}

// checkSettings checks the tables of the link's kind.
func (d *draft) checkSettings(n *node, l Link) {
	if !d.kindKnown(l.Name) {
		return
	}
	for _, s := range settings {
		own := n.get(s.key)
		switch {
		case own != nil && own.bad:
		case own != nil && l.Kind != s.kind:
			d.at(own, "is for %s, and this link is %s", "a "+string(s.kind), l.Kind)
		case s.kind != l.Kind || s.needs == "":
		case own == nil:
			d.missing(n.file, n, n.path+"."+s.key, "is missing: %s needs [%s.%s] with its %s", "a "+string(s.kind), n.path, s.key, s.needs)
		case own.get(s.needs) == nil:
			d.missing(own.file, own, own.path+"."+s.needs, "is missing: %s needs it", "a "+string(s.kind))
		}
	}
	d.checkPort(n.get("port"), l)
	switch l.Kind {
	case LinkBridge:
		d.checkBridge(n.get("bridge"))
	case LinkBond:
		d.checkBond(n.get("bond"), l)
	case LinkVLAN:
		d.checkTwins(n.get("vlan"), l, "is the VLAN of %s too (%s)", func(o Link) bool {
			return o.VLAN != nil && l.VLAN != nil && o.Parent == l.Parent && *o.VLAN == *l.VLAN
		})
	case LinkVXLAN:
		d.checkVXLAN(n.get("vxlan"), l)
	case LinkMacvlan:
		d.checkMacvlan(n, l)
	case LinkVRF:
		d.checkVRF(n.get("vrf"), l)
	}
}

// checkTwins reports a link that the kernel would take for another one of the
// host.
func (d *draft) checkTwins(at *node, l Link, format string, same func(Link) bool) {
	if at == nil || at.broken() {
		return
	}
	for _, o := range d.spec.Network.Links {
		if o.Name < l.Name && o.Kind == l.Kind && same(o) {
			d.at(at, format, quote(o.Name), d.linkNode(o.Name).place())
			return
		}
	}
}

// checkBridge holds STP's times to what IEEE 802.1D (8.10.2) asks of them, and
// to what the kernel takes while STP is on.
func (d *draft) checkBridge(n *node) {
	if n == nil || n.broken() || !parsed[bool](n.get("stp")) {
		return
	}
	or := func(key string, otherwise time.Duration) time.Duration {
		if at := n.get(key); at != nil {
			return durationOf(at)
		}
		return otherwise
	}
	delay, hello, age := or("forward_delay", 15*time.Second), or("hello_time", 2*time.Second), or("max_age", 20*time.Second)
	switch {
	case delay < 2*time.Second:
		d.at(n.get("forward_delay"), "%s is too short with STP on: at least 2s", delay)
	case 2*(delay-time.Second) < age:
		d.warn(d.file, n, n.path, "twice forward_delay (%s) less a second must be at least max_age (%s), or loops can arise while STP learns", delay, age)
	case age < 2*(hello+time.Second):
		d.warn(d.file, n, n.path, "max_age (%s) must be at least twice hello_time (%s) and a second, or one lost packet changes the tree", age, hello)
	}
}

// checkPort checks the settings of a port of a bridge.
func (d *draft) checkPort(n *node, l Link) {
	if n == nil || n.broken() {
		return
	}
	master := d.link(l.Master)
	if l.Master == "" || master != nil && master.Kind != LinkBridge && d.kindKnown(l.Master) {
		d.at(n, "is for a port of a bridge, and this link is none")
		return
	}
	for _, id := range l.Port.Tagged {
		if slices.Contains(l.Port.Untagged, id) {
			d.at(n.get("untagged"), "VLAN %d is among tagged already (%s): frames leave with a tag or without", id, n.get("tagged").place())
			return
		}
	}
	sets := l.Port.PVID != 0 || len(l.Port.Tagged)+len(l.Port.Untagged) > 0
	if sets && master != nil && (master.Bridge == nil || master.Bridge.VLANFiltering == nil || !*master.Bridge.VLANFiltering) {
		d.warn(d.file, n, n.path, "VLANs of a port have no effect until its bridge %s has vlan_filtering = true", quote(l.Master))
	}
}

func (d *draft) checkVXLAN(n *node, l Link) {
	if n == nil || n.broken() {
		return
	}
	v := l.VXLAN
	switch {
	case v.Remote.IsMulticast() && l.Parent == "":
		d.at(n.get("remote"), "%s is a multicast group, which is joined on a link: write parent", v.Remote)
		return
	case v.Local.IsValid() && v.Remote.IsValid() && v.Local.Is4() != v.Remote.Is4():
		d.at(n.get("local"), "%s is not of the same family as remote %s", v.Local, v.Remote)
		return
	case n.get("id") != nil:
		d.checkTwins(n, l, "has the id and port of %s too (%s)", func(o Link) bool {
			return o.VXLAN != nil && o.VXLAN.ID == v.ID && o.VXLAN.Port == v.Port
		})
	}
	d.checkOwnAddress(n.get("local"), v.Local)
}

func (d *draft) checkMacvlan(n *node, l Link) {
	for _, o := range d.spec.Network.Links {
		alone := o.Macvlan != nil && o.Macvlan.Mode == "passthru" || l.Macvlan != nil && l.Macvlan.Mode == "passthru"
		if o.Kind == LinkMacvlan && o.Name < l.Name && o.Parent == l.Parent && l.Parent != "" && alone && !n.broken() {
			d.at(n, "a macvlan in the mode \"passthru\" takes its parent %s for itself, and %s lies upon it too", quote(l.Parent), quote(o.Name))
		}
	}
}

func (d *draft) checkVRF(n *node, l Link) {
	if n == nil || n.broken() || l.VRF.Table == 0 {
		return
	}
	if t := l.VRF.Table; t >= 253 && t <= localTable {
		d.at(n.get("table"), "%d is one of the kernel's own tables (253 to 255): a vrf has a table for itself", t)
		return
	}
	d.checkTwins(n, l, "has the table of %s too (%s)", func(o Link) bool { return o.VRF != nil && o.VRF.Table == l.VRF.Table })
}
