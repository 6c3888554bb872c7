package netcfg

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
)

// The model's part for links.

func (m *model) create(o createLink) error {
	w := o.link
	names := []string{w.Name}
	if w.Kind == hosts.LinkVeth {
		names = append(names, w.Peer)
	}
	if _, there := m.links[w.Parent]; w.Parent != "" && !there {
		return fmt.Errorf("no link %s below %s", w.Parent, w.Name)
	}
	for _, l := range m.links {
		if w.Kind == hosts.LinkMacvlan && l.Name == w.Parent && l.Master != "" {
			return fmt.Errorf("link %s is a port of %s", l.Name, l.Master)
		}
		if w.Kind == l.Kind && inTheWay(l, w) != "" {
			return fmt.Errorf("link %s is in the way of %s", l.Name, w.Name)
		}
	}
	for i, name := range names {
		if _, there := m.links[name]; there {
			return fmt.Errorf("link %s exists", name)
		}
		l := Link{Name: name, Kind: w.Kind, Driver: string(w.Kind), MTU: 1500, Owned: true, Marked: true, Parent: w.Parent, MAC: w.MAC}
		if len(names) == 2 {
			l.Peer = names[1-i]
		}
		if i == 0 {
			l.Settings = slices.DeleteFunc(slices.Clone(kernelSettings(Link{}, w)), func(s Setting) bool { return s.Name == "primary" })
		}
		m.links[name] = l
	}
	return m.set(o.rest)
}

func (m *model) set(o setLink) error {
	l, there := m.links[o.name]
	if !there {
		return fmt.Errorf("no link %s", o.name)
	}
	l.Owned, l.Marked = l.Owned || o.adopt, l.Marked || o.mark
	if o.alias != nil {
		l.Owned, l.Marked = false, false
	}
	for _, s := range o.settings {
		l.Settings = withSetting(l.Settings, s.Name, s.Value)
	}
	if value, set := settingOf(o.settings, "default_pvid"); set {
		m.defaultPVID(l, number(value))
	}
	if o.mac != "" {
		l.MAC = o.mac
	}
	if o.placed != nil {
		l.Placed = *o.placed
	}
	if o.master != nil {
		var err error
		if l, err = m.enslave(l, *o.master, o.primary); err != nil {
			return err
		}
	}
	if l.Master == "" && len(o.port) > 0 {
		return fmt.Errorf("link %s is no port", l.Name)
	}
	for _, s := range o.port {
		l.Port = withSetting(l.Port, s.Name, s.Value)
	}
	if o.vlans != nil {
		l.VLANs = o.vlans
	}
	if o.mtu != 0 {
		l.MTU = o.mtu
	}
	l.AltNames = slices.Sorted(slices.Values(append(slices.DeleteFunc(slices.Clone(l.AltNames), func(n string) bool {
		return slices.Contains(o.dropAltNames, n)
	}), o.altNames...)))
	l.Up = (l.Up || o.up) && !o.down
	m.links[o.name] = l
	return nil
}

func (m *model) defaultPVID(bridge Link, now int) {
	before, _ := settingOf(m.links[bridge.Name].Settings, "default_pvid")
	for name, l := range m.links {
		if l.Master == bridge.Name && l.VLANs != nil {
			vlans := l.VLANs.withDefault(number(before), now)
			l.VLANs = &vlans
			m.links[name] = l
		}
	}
}

func (m *model) enslave(l Link, name string, primary bool) (Link, error) {
	master, there := m.links[name]
	switch {
	case name == "":
	case !there:
		return l, fmt.Errorf("no master %s", name)
	case master.Kind != hosts.LinkBridge && master.Kind != hosts.LinkBond && master.Kind != hosts.LinkVRF:
		return l, fmt.Errorf("%s is a %s and has no ports", name, master.Kind)
	}
	for _, above := range m.links {
		if master.Kind == hosts.LinkBridge && above.Kind == hosts.LinkMacvlan && above.Parent == l.Name {
			return l, fmt.Errorf("macvlan %s lies upon %s", above.Name, l.Name)
		}
	}
	old := m.links[l.Master].Kind
	if old == hosts.LinkBond {
		l.Up = false
		m.losePrimary(l)
	}
	if master.Kind == hosts.LinkBond {
		l.Up = true
		if primary {
			master.Settings = withSetting(master.Settings, "primary", l.Name)
			m.links[name] = master
		}
	}
	if slices.Contains([]hosts.LinkKind{old, master.Kind}, hosts.LinkBond) || slices.Contains([]hosts.LinkKind{old, master.Kind}, hosts.LinkVRF) {
		m.loseLinks(map[string]bool{l.Name: true})
	}
	if l.Master != name {
		l.Port, l.VLANs = nil, nil
	}
	l.Master = name
	return l, nil
}

func (m *model) losePrimary(port Link) {
	if bond := m.links[port.Master]; bond.setting("primary") == port.Name {
		bond.Settings = withSetting(bond.Settings, "primary", "")
		m.links[bond.Name] = bond
	}
}

func (m *model) delete(o deleteLink) error {
	l, there := m.links[o.name]
	if !there {
		return nil
	}
	if !l.Owned && !o.adopt {
		return fmt.Errorf("link %s is somebody else's", o.name)
	}
	gone := map[string]bool{}
	m.vanish(l, gone)
	var lost []netip.Addr
	masters := map[string]hosts.LinkKind{}
	for name := range gone {
		for _, a := range m.links[name].Addresses {
			lost = append(lost, a.Prefix.Addr())
		}
		masters[name] = m.links[name].Kind
		m.losePrimary(m.links[name])
	}
	for name := range gone {
		delete(m.links, name)
	}
	for name, l := range m.links {
		if gone[l.Master] {
			l.Up = l.Up && masters[l.Master] != hosts.LinkBond
			l.Master, l.Port, l.VLANs = "", nil, nil
			m.links[name] = l
		}
	}
	m.loseLinks(gone)
	for _, address := range lost {
		m.flushSource(address)
	}
	return nil
}

func (m *model) vanish(l Link, gone map[string]bool) {
	if gone[l.Name] {
		return
	}
	gone[l.Name] = true
	for _, other := range m.links {
		if other.Parent == l.Name || l.Peer != "" && other.Name == l.Peer {
			m.vanish(other, gone)
		}
	}
}
