package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
)

// Foreign is an object on the host that nodeagent neither made nor, by the spec,
// is to manage. It is listed for people, and never touched.
type Foreign struct {
	Kind   string `json:"kind"`   // "link", "address"
	Name   string `json:"name"`   // "docker0", "172.17.0.1/16 on docker0"
	Detail string `json:"detail"` // "bridge, mtu 1500, up"
	By     string `json:"by"`     // who made it, as far as one can tell
}

// Foreign lists what is on the host besides that which nodeagent owns and the
// wanted state names, by kind and name. What the kernel makes by itself is left
// out, such as the loopback. Where a part cannot be read the others are returned
// with an error that names it.
func (sys *System) Foreign(ctx context.Context, want State) ([]Foreign, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kernel, err := sys.listLinks()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", explain(err))
	}
	have := State{Names: kernel.names(), Hardware: kernel.hardware()}
	want = want.resolved(have)
	list := kernel.foreignLinks(want)
	addresses, err := sys.foreignAddresses(kernel, want)
	list = append(list, addresses...)
	routes, routesErr := sys.foreignRoutes(kernel, want)
	list = append(list, routes...)
	rules, rulesErr := sys.foreignRules(want)
	list = append(list, rules...)
	tables, tablesErr := foreignTables(ctx)
	list = append(list, tables...)
	slices.SortStableFunc(list, func(a, b Foreign) int {
		return cmp.Or(slices.Index(foreignKinds, a.Kind)-slices.Index(foreignKinds, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return list, errors.Join(err, routesErr, rulesErr, tablesErr)
}

// foreignKinds is the order in which kinds are listed; others come before.
var foreignKinds = []string{"link", "address", "route", "rule", "nftables table"}

// fallbackLinks are the links that modules of the kernel make when they are
// loaded.
var fallbackLinks = []string{"tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "ip6gre0", "erspan0", "ip_vti0", "ip6_vti0"}

func (k kernelLinks) foreignLinks(want State) []Foreign {
	wanted := byName(want.Links)
	var list []Foreign
	for _, l := range k.list {
		name := l.Attrs().Name
		if _, named := wanted[name]; named || k.ours(l, want) || slices.Contains(fallbackLinks, name) {
			continue
		}
		link := k.link(l)
		by := makerOf(link)
		if link.Driver == "" && link.Alias == "" {
			by = "hardware"
		}
		list = append(list, Foreign{Kind: "link", Name: name, Detail: link.String(), By: by})
	}
	return list
}

// ours tells whether the link is nodeagent's, by any part of this package, or
// the loopback.
func (k kernelLinks) ours(l netlink.Link, want State) bool {
	return l.Attrs().Flags&net.FlagLoopback != 0 || k.owned(l) || marked(l) || ofAnotherPart(l, want)
}

func (sys *System) foreignAddresses(kernel kernelLinks, want State) ([]Foreign, error) {
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", explain(err))
	}
	wanted := byName(want.Links)
	var list []Foreign
	for _, a := range addresses {
		link, known := kernel.byIndex[a.index]
		onOurs := known && kernel.owned(link) && a.protocol == 0 && a.permanent
		if !known || onOurs || a.madeByUs() || a.madeByKernel() {
			continue
		}
		name := link.Attrs().Name
		if hasPrefix(wanted[name].Addresses, a.prefix) || want.WireGuard != nil && want.WireGuard.Interface == name && want.WireGuard.Address == a.prefix {
			continue
		}
		managed := a.managed(false)
		detail := "for ever"
		if !a.permanent {
			detail = "valid " + lifetimeWord(managed.Valid)
		}
		list = append(list, Foreign{Kind: "address", Name: fmt.Sprintf("%s on %s", a.prefix, name), Detail: detail, By: a.maker()})
	}
	return list, nil
}

func (k kernelAddress) madeByUs() bool {
	return k.protocol == AddressProtocol || k.protocol == FloatingProtocol
}

// madeByKernel tells of the loopback's addresses and IPv6 link-local ones.
func (k kernelAddress) madeByKernel() bool {
	const loopback, linkLocal = 1, 3 // IFAPROT_KERNEL_LO and _LL
	return k.protocol == loopback || k.protocol == linkLocal || k.prefix.Addr().IsLoopback() ||
		k.prefix.Addr().Is6() && k.prefix.Addr().IsLinkLocalUnicast()
}

func (k kernelAddress) maker() string {
	const advertisement = 2 // IFAPROT_KERNEL_RA
	switch {
	case k.protocol == advertisement, k.temporary:
		return "router advertisement"
	case !k.permanent:
		return "somebody who gave it a lifetime, such as DHCP"
	case k.protocol != 0:
		return fmt.Sprintf("protocol %d", k.protocol)
	}
	return "somebody else"
}
