package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// linkGroup is the device group in which links are created. The kernel takes
// no alias when it creates a link, but it takes a group: so a link is known as
// ours from the moment it exists, even when nodeagent is killed before it sets
// the alias. Setting the alias puts the link back into the default group.
const linkGroup = RouteProtocol

// portGroup is the device group of links that nodeagent did not make and made a
// port of a master. It is how they are known when no spec names them any more.
// A link that somebody put into a group stays there, and stays a port.
const portGroup = linkGroup + 1

// find returns the link with the name.
func (sys *System) find(name string) (netlink.Link, error) {
	link, err := sys.nl.LinkByName(name)
	if err != nil {
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			return nil, fmt.Errorf("find link %q: it is not on this host: %w", name, err)
		}
		return nil, fmt.Errorf("find link %q: %w", name, explain(err))
	}
	return link, nil
}

func (o createLink) apply(ctx context.Context, sys *System) error {
	err := edit(ctx, func() error { return sys.newLink(o.link) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create %s %q: %w", o.link.Kind, o.link.Name, explain(err, createHints(o.link)...))
	}
	return sys.finish(ctx, o)
}

func createHints(l Link) []hint {
	return []hint{
		{unix.EOPNOTSUPP, "the kernel does not know this kind of link, or this setting; load its module (" + moduleOf(l.Kind) + ")"},
		{unix.EBUSY, fmt.Sprintf("link %q is taken: it is a port of a bridge or bond, or has a macvlan in passthru mode; put this link upon the master instead", l.Parent)},
		{unix.ENODEV, fmt.Sprintf("the link %q that it lies upon is gone; plan again", l.Parent)},
		{unix.EADDRNOTAVAIL, "the hardware address is none that a link can have"},
		{unix.ERANGE, "a setting is outside of what the kernel takes"},
		{unix.EINVAL, "the kernel refuses a setting"},
	}
}

// moduleOf is the kernel module of a kind of link.
func moduleOf(kind hosts.LinkKind) string {
	switch kind {
	case hosts.LinkBond:
		return "bonding"
	case hosts.LinkVLAN:
		return "8021q"
	}
	return string(kind)
}

// finish marks what was created, or what turned out to be there already and is
// ours, and sets the rest.
func (sys *System) finish(ctx context.Context, o createLink) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	names := []string{o.link.Name}
	if o.link.Kind == hosts.LinkVeth {
		names = append(names, o.link.Peer)
	}
	for _, k := range kernel.list {
		if k.Attrs().Name == o.link.Name && !fits(kernel.link(k), o.link) || contains(names, k.Attrs().Name) && !kernel.owned(k) {
			return fmt.Errorf("create %s %q: somebody else made link %q meanwhile; plan again", o.link.Kind, o.link.Name, k.Attrs().Name)
		}
	}
	for _, name := range names {
		if err := sys.mark(ctx, name); err != nil {
			return err
		}
	}
	return o.rest.apply(ctx, sys)
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// mark sets our alias and, in the same message, the default group.
func (sys *System) mark(ctx context.Context, name string) error {
	link, err := sys.find(name)
	if err != nil {
		return err
	}
	if marked(link) && link.Attrs().Group != linkGroup {
		return nil
	}
	err = edit(ctx, func() error {
		return sys.setLink(link.Attrs().Index,
			nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(LinkAlias)), nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(0)))
	})
	if err != nil {
		return fmt.Errorf("set alias %q of link %q: %w", LinkAlias, name, explain(err))
	}
	return nil
}

// setLink sends RTM_SETLINK with the attributes.
func (sys *System) setLink(index int, attributes ...*nl.RtAttr) error {
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	req := sys.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(head)
	for _, a := range attributes {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// apply sets what needs the link down first, so that a link that was left down
// when nodeagent was killed comes up at the end of the next run.
func (o setLink) apply(ctx context.Context, sys *System) error {
	if o.mark {
		if err := sys.mark(ctx, o.name); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context, *System) error{
		o.setAlias, o.setKind, o.setMAC, o.setMaster, o.setPort, o.setMTU, o.setNames, o.setUp,
	} {
		if err := step(ctx, sys); err != nil {
			return err
		}
	}
	return sys.keep(ctx, o.bridges)
}

func (o setLink) setAlias(ctx context.Context, sys *System) error {
	if o.alias == nil {
		return nil
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	err = edit(ctx, func() error {
		return sys.setLink(link.Attrs().Index, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(*o.alias)))
	})
	if err != nil {
		return fmt.Errorf("set alias %q of link %q: %w", *o.alias, o.name, explain(err))
	}
	return nil
}

func (o setLink) setMTU(ctx context.Context, sys *System) error {
	if o.mtu == 0 {
		return nil
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	return sys.setMTU(ctx, link, o.mtu)
}

func (o setLink) setNames(ctx context.Context, sys *System) error {
	if len(o.altNames)+len(o.dropAltNames) == 0 {
		return nil
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	for _, name := range o.dropAltNames {
		err := edit(ctx, func() error { return sys.nl.LinkDelAltName(link, name) })
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove alternative name %q of link %q: %w", name, o.name, explain(err))
		}
	}
	for _, name := range o.altNames {
		if contains(link.Attrs().AltNames, name) {
			continue
		}
		if err := edit(ctx, func() error { return sys.nl.LinkAddAltName(link, name) }); err != nil {
			return fmt.Errorf("name link %q %q too: %w", o.name, name, explain(err,
				hint{unix.EEXIST, "another link bears that name; remove it there, or change the spec"}))
		}
	}
	return nil
}

func (o setLink) setUp(ctx context.Context, sys *System) error {
	if !o.up && !o.down {
		return nil
	}
	link, err := sys.find(o.name) // anew: other steps move it
	if err != nil {
		return err
	}
	up := isUp(link)
	if o.up && !up {
		if err := edit(ctx, func() error { return sys.nl.LinkSetUp(link) }); err != nil {
			return fmt.Errorf("bring up link %q: %w", o.name, explain(err,
				hint{unix.ENETDOWN, "the link that it lies upon is down"},
				hint{unix.EADDRINUSE, "another VXLAN has the same id and port"},
				hint{unix.EBUSY, "the link that it lies upon is taken, by a macvlan in passthru mode or a bridge"}))
		}
	}
	if o.down && up {
		if err := edit(ctx, func() error { return sys.nl.LinkSetDown(link) }); err != nil {
			return fmt.Errorf("bring down link %q: %w", o.name, explain(err))
		}
	}
	return nil
}

func isUp(link netlink.Link) bool { return link.Attrs().Flags&1 != 0 } // net.FlagUp

func (sys *System) setMTU(ctx context.Context, link netlink.Link, mtu int) error {
	if err := edit(ctx, func() error { return sys.nl.LinkSetMTU(link, mtu) }); err != nil {
		return fmt.Errorf("set mtu of link %q to %d: %w", link.Attrs().Name, mtu, explain(err,
			hint{unix.ERANGE, "the link that it lies upon has a smaller one"},
			hint{unix.EINVAL, "the link cannot have it; ip -d link show prints its minmtu and maxmtu"}))
	}
	return nil
}

// keep sets again what a master lost when a port changed.
func (sys *System) keep(ctx context.Context, masters []keepMTU) error {
	for _, k := range masters {
		master, err := sys.find(k.bridge)
		if err != nil {
			return err
		}
		if k.mtu != 0 && master.Attrs().MTU != k.mtu {
			if err := sys.setMTU(ctx, master, k.mtu); err != nil {
				return err
			}
		}
		if k.mac != "" && master.Attrs().HardwareAddr.String() != k.mac {
			if err := (setLink{name: k.bridge, mac: k.mac}).setMAC(ctx, sys); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply deletes the link if it is still ours: between plan and apply somebody
// may have put another in its place.
func (o deleteLink) apply(ctx context.Context, sys *System) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	for _, link := range kernel.list {
		if link.Attrs().Name != o.name {
			continue
		}
		if !kernel.owned(link) && !o.adopt {
			return fmt.Errorf("delete link %q: it is not nodeagent's any more; plan again", o.name)
		}
		if err := sys.deleteLink(ctx, kernel, link); err != nil {
			return fmt.Errorf("delete link %q: %w", o.name, err)
		}
	}
	return sys.keep(ctx, o.bridges)
}

// deleteLink deletes the link. The ports of a VRF are taken down and up by the
// kernel when they lose it; their addresses are put back then.
func (sys *System) deleteLink(ctx context.Context, kernel kernelLinks, link netlink.Link) error {
	var dropped []saved
	for _, port := range kernel.list {
		if observedKind(link) != hosts.LinkVRF || port.Attrs().MasterIndex != link.Attrs().Index {
			continue
		}
		s, err := sys.save(kernel, port.Attrs().Index, false, netip.Addr{})
		if err != nil {
			return fmt.Errorf("list what hangs on its port %q: %w", port.Attrs().Name, explain(err))
		}
		dropped = append(dropped, s)
	}
	err := edit(ctx, func() error { return sys.nl.LinkDel(link) })
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return explain(err)
	}
	for _, s := range dropped {
		if err := sys.putBack(context.WithoutCancel(ctx), s); err != nil {
			return err
		}
	}
	return nil
}

// whileDown takes the link down if it is up, and brings it up again after do,
// with what the kernel dropped of addresses and routes, whoever made them. Once
// it is down nothing but a kill keeps it so: not an error, and not a ctx that is
// done.
func (sys *System) whileDown(ctx context.Context, name string, do func() error) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	link, err := sys.find(name)
	if err != nil {
		return err
	}
	if !isUp(link) {
		return do()
	}
	dropped, err := sys.save(kernel, link.Attrs().Index, true, netip.Addr{})
	if err != nil {
		return fmt.Errorf("list what hangs on link %q: %w", name, explain(err))
	}
	if err := edit(ctx, func() error { return sys.nl.LinkSetDown(link) }); err != nil {
		return fmt.Errorf("bring down link %q: %w", name, explain(err))
	}
	failed := do()
	if err := sys.nl.LinkSetUp(link); err != nil {
		return errors.Join(failed, fmt.Errorf("bring up link %q again: %w", name, explain(err)))
	}
	return errors.Join(failed, sys.putBack(context.WithoutCancel(ctx), dropped))
}
