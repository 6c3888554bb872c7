package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func (o addAddress) apply(ctx context.Context, sys *System) error {
	link, err := sys.find(o.link)
	if err != nil {
		return err
	}
	if o.replace {
		return sys.changeAddress(ctx, o.link, link.Attrs().Index, o.address)
	}
	return sys.addAddress(ctx, o.link, link.Attrs().Index, o.address)
}

// addAddress adds an address of ours to a link. One that is there already is
// left as it is and no error.
func (sys *System) addAddress(ctx context.Context, link string, index int, a Address) error {
	err := edit(ctx, func() error {
		return sys.writeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, a, AddressProtocol, 0)
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s to link %q: %w", a, link, explain(err,
			hint{unix.EACCES, "IPv6 is off on this link (sysctl net.ipv6.conf." + link + ".disable_ipv6)"},
			hint{unix.EOPNOTSUPP, "IPv6 is off on this host (kernel parameter ipv6.disable)"},
			hint{unix.EINVAL, "the kernel refuses the address: its preferred lifetime must not be longer than the other, and the IPv4 addresses of one network on one link have one scope"},
			hint{unix.EADDRNOTAVAIL, "it is no address that a host can have"}))
	}
	return nil
}

// changeAddress gives an address that is there other lifetimes and flags. It
// stays whose it was, with the flags of which a spec says nothing. One that is
// gone meanwhile, such as by the end of its lifetime, is added: that is what a
// fresh plan would do.
func (sys *System) changeAddress(ctx context.Context, link string, index int, a Address) error {
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return fmt.Errorf("list addresses: %w", explain(err))
	}
	for _, k := range addresses {
		if k.index != index || k.prefix != a.Prefix || k.peer {
			continue
		}
		err := edit(ctx, func() error {
			return sys.writeAddress(unix.RTM_NEWADDR, unix.NLM_F_REPLACE, index, a, k.protocol, k.kept)
		})
		if err != nil {
			return fmt.Errorf("change address %s of link %q: %w", a, link, explain(err,
				hint{unix.EINVAL, "the kernel refuses a lifetime: the preferred one must not be longer than the other"}))
		}
		return nil
	}
	return sys.addAddress(ctx, link, index, a)
}

// apply deletes before it adds, since the kernel refuses the second of the two.
// Killed in between, the next run adds what is missing. The IPv4 routes that go
// with the address are put back, whoever made them.
func (o replaceAddresses) apply(ctx context.Context, sys *System) error {
	link, err := sys.find(o.link)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	var dropped []saved
	for _, old := range o.old {
		if old.Addr().Is6() {
			continue
		}
		kernel, err := sys.listLinks()
		if err != nil {
			return fmt.Errorf("list links: %w", explain(err))
		}
		s, err := sys.save(kernel, index, true, old.Addr())
		if err != nil {
			return fmt.Errorf("list what hangs on link %q: %w", o.link, explain(err))
		}
		dropped = append(dropped, s)
	}
	for _, old := range o.old {
		if err := (deleteAddress{link: o.link, prefix: old}).apply(ctx, sys); err != nil {
			return err
		}
	}
	for _, a := range o.new {
		if err := sys.addAddress(ctx, o.link, index, a); err != nil {
			return err
		}
	}
	for _, s := range dropped {
		if err := sys.putBack(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (o deleteAddress) apply(ctx context.Context, sys *System) error {
	link, err := sys.find(o.link)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	restore, err := sys.promoteSecondaries(ctx, index, o.prefix)
	if err != nil {
		return fmt.Errorf("keep secondary addresses of link %q: %w", o.link, explain(err))
	}
	return errors.Join(sys.removeAddress(ctx, o.link, index, o.prefix), restore())
}

func (sys *System) removeAddress(ctx context.Context, link string, index int, p netip.Prefix) error {
	err := edit(ctx, func() error { return sys.writeAddress(unix.RTM_DELADDR, 0, index, Address{Prefix: p}, 0, 0) })
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete address %s of link %q: %w", p, link, explain(err))
	}
	return nil
}

// promoteSecondaries makes sure that deleting the address deletes no other. The
// first IPv4 address of a network on a link is its primary one, later ones are
// secondary and go with it unless the link's promote_secondaries is set, which
// systemd does on most hosts and others don't. Where it matters the setting is
// turned on for the deletion, and the function that is returned puts it back.
// Turning it on first, rather than adding the lost addresses again, keeps them
// (somebody else's among them) even when nodeagent is killed in between.
func (sys *System) promoteSecondaries(ctx context.Context, index int, p netip.Prefix) (restore func() error, err error) {
	nothing := func() error { return nil }
	if p.Addr().Is6() {
		return nothing, nil
	}
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return nil, err
	}
	depends := false
	for _, a := range addresses {
		depends = depends || a.index == index && a.secondary && a.prefix.Masked() == p.Masked() && a.prefix != p
	}
	if !depends {
		return nothing, nil
	}
	was, err := sys.linkSetting(index, promoteSecondaries)
	if err != nil || was != 0 {
		return nothing, err
	}
	if err := edit(ctx, func() error { return sys.setLinkSetting(index, promoteSecondaries, 1) }); err != nil {
		return nil, err
	}
	// Put back even when ctx is done: nothing else would.
	return func() error { return sys.setLinkSetting(index, promoteSecondaries, was) }, nil
}

// promoteSecondaries is IPV4_DEVCONF_PROMOTE_SECONDARIES of linux/ip.h; the
// attributes around it are IFLA_AF_SPEC, AF_INET and IFLA_INET_CONF of
// if_link.h. They reach the link's sysctls through the System's own socket,
// where /proc/sys would be that of the calling thread's namespace.
const (
	promoteSecondaries = 20
	iflaInetConf       = 1
)

// linkSetting reads one number of net.ipv4.conf.<link>.
func (sys *System) linkSetting(index, setting int) (uint32, error) {
	req := sys.request(unix.RTM_GETLINK, 0)
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	req.AddData(head)
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		value, err := nested(m[unix.SizeofIfInfomsg:], unix.IFLA_AF_SPEC, unix.AF_INET, iflaInetConf)
		if err != nil {
			return 0, err
		}
		if at := 4 * (setting - 1); len(value) >= at+4 {
			return binary.NativeEndian.Uint32(value[at:]), nil
		}
	}
	return 0, fmt.Errorf("read IPv4 setting %d: the kernel reports none", setting)
}

// nested follows attributes into each other and returns the last one's value,
// nil where one is missing.
func nested(value []byte, path ...uint16) ([]byte, error) {
	for _, step := range path {
		attributes, err := nl.ParseRouteAttr(value)
		if err != nil {
			return nil, err
		}
		value = nil
		for _, a := range attributes {
			if a.Attr.Type&^unix.NLA_F_NESTED == step {
				value = a.Value
			}
		}
	}
	return value, nil
}

// setLinkSetting writes one number of net.ipv4.conf.<link>.
func (sys *System) setLinkSetting(index, setting int, value uint32) error {
	req := sys.request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	req.AddData(head)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet := spec.AddRtAttr(unix.AF_INET, nil)
	conf := inet.AddRtAttr(iflaInetConf, nil)
	conf.AddRtAttr(setting, nl.Uint32Attr(value))
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
