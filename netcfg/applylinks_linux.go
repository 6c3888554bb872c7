package netcfg

import (
	"context"
	"errors"
	"fmt"

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
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = o.link.Name, linkGroup
	var link netlink.Link
	names := []string{o.link.Name}
	switch o.link.Kind {
	case hosts.LinkBridge:
		link = &netlink.Bridge{LinkAttrs: attrs}
	case hosts.LinkVeth:
		link = &netlink.Veth{LinkAttrs: attrs, PeerName: o.link.Peer}
		names = append(names, o.link.Peer)
	default:
		return fmt.Errorf("create link %q: nodeagent makes no %s links", o.link.Name, o.link.Kind)
	}
	err := edit(ctx, func() error { return sys.nl.LinkAdd(link) })
	if errors.Is(err, unix.EEXIST) {
		return sys.finish(ctx, o, names)
	}
	if err != nil {
		return fmt.Errorf("create %s %q: %w", o.link.Kind, o.link.Name, explain(err,
			hint{unix.EOPNOTSUPP, "the kernel does not know this kind of link; load its module (bridge, veth)"}))
	}
	return sys.finish(ctx, o, names)
}

// finish marks what was created, or what turned out to be there already and is
// ours, and sets the rest.
func (sys *System) finish(ctx context.Context, o createLink, names []string) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
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
	set := setLink{name: o.link.Name, mtu: o.link.MTU, up: o.link.Up, bridges: o.bridges}
	if o.link.Master != "" {
		set.master = &o.link.Master
	}
	return set.apply(ctx, sys)
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
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(link.Attrs().Index)
	err = edit(ctx, func() error {
		req := sys.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
		req.AddData(head)
		req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(LinkAlias)))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(0)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("set alias %q of link %q: %w", LinkAlias, name, explain(err))
	}
	return nil
}

func (o setLink) apply(ctx context.Context, sys *System) error {
	if o.mark {
		if err := sys.mark(ctx, o.name); err != nil {
			return err
		}
	}
	link, err := sys.find(o.name)
	if err != nil {
		return err
	}
	if o.master != nil {
		if err := sys.setMaster(ctx, link, *o.master); err != nil {
			return err
		}
	}
	if o.mtu != 0 {
		if err := sys.setMTU(ctx, link, o.mtu); err != nil {
			return err
		}
	}
	if o.up && link.Attrs().Flags&1 == 0 { // net.FlagUp
		if err := edit(ctx, func() error { return sys.nl.LinkSetUp(link) }); err != nil {
			return fmt.Errorf("bring up link %q: %w", o.name, explain(err))
		}
	}
	if o.down && link.Attrs().Flags&1 != 0 {
		if err := edit(ctx, func() error { return sys.nl.LinkSetDown(link) }); err != nil {
			return fmt.Errorf("bring down link %q: %w", o.name, explain(err))
		}
	}
	return sys.keep(ctx, o.bridges)
}

func (sys *System) setMaster(ctx context.Context, link netlink.Link, name string) error {
	index := 0
	if name != "" {
		master, err := sys.find(name)
		if err != nil {
			return fmt.Errorf("set master of link %q: %w", link.Attrs().Name, err)
		}
		index = master.Attrs().Index
	}
	if link.Attrs().MasterIndex == index {
		return nil
	}
	if err := edit(ctx, func() error { return sys.nl.LinkSetMasterByIndex(link, index) }); err != nil {
		return fmt.Errorf("set master of link %q to %q: %w", link.Attrs().Name, name, explain(err,
			hint{unix.ELOOP, "a bridge cannot be a port of a bridge"},
			hint{unix.EINVAL, "this kind of link cannot be a port (loopback and links without Ethernet addresses cannot)"},
			hint{unix.EOPNOTSUPP, "the master is no bridge"}))
	}
	return nil
}

func (sys *System) setMTU(ctx context.Context, link netlink.Link, mtu int) error {
	if err := edit(ctx, func() error { return sys.nl.LinkSetMTU(link, mtu) }); err != nil {
		return fmt.Errorf("set mtu of link %q to %d: %w", link.Attrs().Name, mtu, explain(err,
			hint{unix.EINVAL, "the link cannot have it; ip -d link show prints its minmtu and maxmtu"}))
	}
	return nil
}

// keep sets the wanted MTU of bridges again where a port's change moved it.
func (sys *System) keep(ctx context.Context, bridges []keepMTU) error {
	for _, k := range bridges {
		bridge, err := sys.find(k.bridge)
		if err != nil {
			return err
		}
		if bridge.Attrs().MTU == k.mtu {
			continue
		}
		if err := sys.setMTU(ctx, bridge, k.mtu); err != nil {
			return err
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
		if !kernel.owned(link) {
			return fmt.Errorf("delete link %q: it is not nodeagent's any more; plan again", o.name)
		}
		err := edit(ctx, func() error { return sys.nl.LinkDel(link) })
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %q: %w", o.name, explain(err))
		}
	}
	return sys.keep(ctx, o.bridges)
}
