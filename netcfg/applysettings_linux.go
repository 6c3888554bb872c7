package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// setKind sets settings of the link's kind: those that need the link without
// ports or down in one go, then those that do not.
func (o setLink) setKind(ctx context.Context, sys *System) error {
	if len(o.settings) == 0 {
		return nil
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	kind := observedKind(link)
	var down, up []Setting
	ports := false
	for _, s := range o.settings {
		switch when := momentOf(kind, s.Name); when {
		case linkDown, portless:
			down, ports = append(down, s), ports || when == portless
		default:
			up = append(up, s)
		}
	}
	set := func(settings []Setting) error { return sys.writeSettings(ctx, link, kind, settings) }
	if len(down) > 0 {
		do := func() error { return set(down) }
		if ports {
			do = func() error { return sys.withoutPorts(ctx, link, func() error { return set(down) }) }
		}
		if err := sys.whileDown(ctx, o.name, do); err != nil {
			return err
		}
	}
	return set(up)
}

func momentOf(kind hosts.LinkKind, name string) moment {
	for _, a := range kindAttributes[kind] {
		if a.name == name {
			return a.when
		}
	}
	return live
}

// writeSettings turns STP off in a message of its own: while it is on the kernel
// takes no short forward delay, which comes in the same one.
func (sys *System) writeSettings(ctx context.Context, link netlink.Link, kind hosts.LinkKind, settings []Setting) error {
	if stp := slices.Index(settings, Setting{"stp", "off"}); stp >= 0 && len(settings) > 1 {
		rest := slices.Delete(slices.Clone(settings), stp, stp+1)
		if err := sys.writeSettings(ctx, link, kind, settings[stp:stp+1]); err != nil {
			return err
		}
		settings = rest
	}
	if len(settings) == 0 {
		return nil
	}
	if err := edit(ctx, func() error { return sys.setKind(link.Attrs().Index, kind, settings) }); err != nil {
		return fmt.Errorf("set %s of link %q: %w", settingWords(settings), link.Attrs().Name, explain(err, settingHints...))
	}
	return nil
}

var settingHints = []hint{
	{unix.ERANGE, "it is outside of what the kernel takes (a bridge with STP: forward_delay 2s to 30s, hello_time 1s to 10s, max_age 6s to 40s)"},
	{unix.EACCES, "the bond's mode does not have this setting"},
	{unix.EPERM, "the bond has no miimon, without which it has no delays; or changing the network needs root (CAP_NET_ADMIN)"},
	{unix.EINVAL, "the kernel refuses the value"},
	{unix.ENOTEMPTY, "the bond has ports; plan again"},
}

func settingWords(settings []Setting) string {
	text := ""
	for i, s := range settings {
		if i > 0 {
			text += ", "
		}
		text += s.Name + " " + s.Value
	}
	return text
}

// withoutPorts takes the ports out of a bond, and puts them in again after do,
// whoever put them there: nodeagent killed in between knows those that a spec
// names.
func (sys *System) withoutPorts(ctx context.Context, bond netlink.Link, do func() error) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	var ports []netlink.Link
	var failed []error
	for _, l := range kernel.list {
		if l.Attrs().MasterIndex != bond.Attrs().Index {
			continue
		}
		if err := edit(ctx, func() error { return sys.nl.LinkSetMasterByIndex(l, 0) }); err != nil {
			failed = append(failed, fmt.Errorf("take link %q out of %q: %w", l.Attrs().Name, bond.Attrs().Name, explain(err)))
			break
		}
		ports = append(ports, l)
	}
	if len(failed) == 0 {
		failed = append(failed, do())
	}
	for _, port := range ports {
		// The kernel left it down, as it has to be for this, and brings it up.
		if err := sys.nl.LinkSetMasterByIndex(port, bond.Attrs().Index); err != nil {
			failed = append(failed, fmt.Errorf("put link %q into %q again: %w", port.Attrs().Name, bond.Attrs().Name, explain(err)))
		}
	}
	return errors.Join(failed...)
}

// setMAC takes the link down only where its driver asks for that.
func (o setLink) setMAC(ctx context.Context, sys *System) error {
	if o.mac == "" {
		return nil
	}
	mac, err := parseMAC(o.mac)
	if err != nil {
		return err
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	write := func() error {
		return edit(ctx, func() error {
			return sys.setLink(link.Attrs().Index, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
		})
	}
	err = write()
	if errors.Is(err, unix.EBUSY) {
		err = sys.whileDown(ctx, o.name, write)
	}
	if err != nil {
		return fmt.Errorf("set hardware address of link %q to %s: %w", o.name, o.mac, explain(err,
			hint{unix.EADDRNOTAVAIL, "it is none that a link can have: multicast, or all zero"},
			hint{unix.EOPNOTSUPP, "the driver does not let it change"}))
	}
	return nil
}

// setMaster makes the link a port, in the group that says by whom.
func (o setLink) setMaster(ctx context.Context, sys *System) error {
	if o.master == nil && o.placed == nil {
		return nil
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	if o.placed != nil {
		if err := sys.place(ctx, link, *o.placed); err != nil {
			return err
		}
	}
	if o.master == nil {
		return nil
	}
	if err := sys.setMaster(ctx, link, *o.master); err != nil {
		return err
	}
	if o.primary {
		return setLink{name: *o.master, settings: []Setting{{"primary", o.name}}}.setKind(ctx, sys)
	}
	return nil
}

// place notes in the link's group whether nodeagent made it a port. Another group
// than the default one is somebody's, and stays.
func (sys *System) place(ctx context.Context, link netlink.Link, placed bool) error {
	group := uint32(0)
	if placed {
		group = portGroup
	}
	if had := link.Attrs().Group; had == group || had != 0 && had != portGroup {
		return nil
	}
	err := edit(ctx, func() error {
		return sys.setLink(link.Attrs().Index, nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	})
	if err != nil {
		return fmt.Errorf("set group %d of link %q: %w", group, link.Attrs().Name, explain(err))
	}
	return nil
}

// setMaster takes a link that is to be a port of a bond down for it: the bond
// brings it up. Becoming a port of a VRF, or leaving one, the kernel takes it
// down and up by itself; its addresses are put back then.
func (sys *System) setMaster(ctx context.Context, link netlink.Link, name string) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	a := link.Attrs()
	index, kind := 0, hosts.LinkKind("")
	if name != "" {
		master, err := sys.find(name)
		if err != nil {
			return fmt.Errorf("set master of link %q: %w", a.Name, err)
		}
		index, kind = master.Attrs().Index, observedKind(master)
	}
	if a.MasterIndex == index {
		return nil
	}
	dropped := saved{}
	if old := kernel.byIndex[a.MasterIndex]; kind == hosts.LinkVRF || old != nil && observedKind(old) == hosts.LinkVRF {
		if dropped, err = sys.save(kernel, a.Index, false, netip.Addr{}); err != nil {
			return fmt.Errorf("list what hangs on link %q: %w", a.Name, explain(err))
		}
	}
	if kind == hosts.LinkBond && isUp(link) {
		if err := edit(ctx, func() error { return sys.nl.LinkSetDown(link) }); err != nil {
			return fmt.Errorf("bring down link %q: %w", a.Name, explain(err))
		}
	}
	if err := edit(ctx, func() error { return sys.nl.LinkSetMasterByIndex(link, index) }); err != nil {
		err = fmt.Errorf("set master of link %q to %q: %w", a.Name, name, explain(err,
			hint{unix.ELOOP, "a bridge cannot be a port of a bridge"},
			hint{unix.EBUSY, "it is a port of another master, or has a macvlan upon it"},
			hint{unix.EINVAL, "this kind of link cannot be a port (loopback and links without Ethernet addresses cannot)"},
			hint{unix.EOPNOTSUPP, "the master has no ports, or its driver takes no such link"}))
		if kind == hosts.LinkBond && isUp(link) {
			err = errors.Join(err, sys.nl.LinkSetUp(link))
		}
		return err
	}
	return sys.putBack(context.WithoutCancel(ctx), dropped)
}

func (o setLink) setPort(ctx context.Context, sys *System) error {
	if len(o.port) > 0 {
		link, err := sys.find(o.name)
		if err != nil {
			return err
		}
		if err := edit(ctx, func() error { return sys.setPort(link.Attrs().Index, o.port) }); err != nil {
			return fmt.Errorf("set port %s of link %q: %w", settingWords(o.port), o.name, explain(err,
				hint{unix.EOPNOTSUPP, "the link is no port of a bridge"},
				hint{unix.ERANGE, "it is outside of what the kernel takes (priority 0 to 63, cost 1 to 65535)"},
				hint{unix.EINVAL, "the link is no port of a bridge"}))
		}
	}
	if o.vlans != nil {
		return sys.setVLANs(ctx, o.name, *o.vlans)
	}
	return nil
}
