package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nodeagent/nodeagent/hosts"
)

// Observe returns the part of the host's network that the wanted state names,
// and everything that nodeagent made before. It writes nothing. Where a part
// cannot be read the others are returned with an error that names it: without
// CAP_NET_ADMIN those are WireGuard and the firewall.
func (sys *System) Observe(ctx context.Context, want State) (State, error) {
	return sys.observe(ctx, want, routesInTheWay)
}

// observe is Observe; scope says which routes of others are asked for.
func (sys *System) observe(ctx context.Context, want State, scope routeScope) (State, error) {
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	kernel, err := sys.listLinks()
	if err != nil {
		// Without links neither addresses nor routes have names.
		return State{}, fmt.Errorf("list links: %w", explain(err))
	}
	have := State{Names: kernel.names()}
	var failed []error
	have.Links, err = sys.observeLinks(kernel, want)
	if err != nil {
		failed = append(failed, fmt.Errorf("list addresses: %w", explain(err)))
	}
	have.Routes, err = sys.observeRoutes(kernel, want, scope)
	if err != nil {
		failed = append(failed, fmt.Errorf("list routes: %w", explain(err)))
	}
	have.Rules, err = sys.observeRules(want)
	if err != nil {
		failed = append(failed, fmt.Errorf("list policy rules: %w", explain(err)))
	}
	have.WireGuard, err = sys.observeWireGuard(ctx, kernel, want.WireGuard)
	failed = append(failed, err)
	have.Firewall, err = observeFirewall(ctx)
	return have, errors.Join(append(failed, err)...)
}

// kernelLinks are the links of the host as the kernel lists them.
type kernelLinks struct {
	list    []netlink.Link
	byIndex map[int]netlink.Link
}

func (sys *System) listLinks() (kernelLinks, error) {
	list, err := dump(sys.nl.LinkList)
	k := kernelLinks{list: list, byIndex: make(map[int]netlink.Link, len(list))}
	for _, l := range list {
		k.byIndex[l.Attrs().Index] = l
	}
	return k, err
}

func (k kernelLinks) names() []string {
	names := make([]string, 0, len(k.list))
	for _, l := range k.list {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

// name returns the name of the link with the index, "" where there is none.
func (k kernelLinks) name(index int) string {
	if l, ok := k.byIndex[index]; ok {
		return l.Attrs().Name
	}
	return ""
}

// peer returns the other end of a veth in this namespace.
func (k kernelLinks) peer(l netlink.Link) (netlink.Link, bool) {
	a := l.Attrs()
	if l.Type() != "veth" || a.NetNsID != -1 {
		return nil, false
	}
	peer, ok := k.byIndex[a.ParentIndex]
	return peer, ok && peer.Type() == "veth"
}

// owned tells whether nodeagent made the link: by the alias, or by the group in
// which it was created when nodeagent was stopped before it set the alias. A
// veth pair is made as one, so either end's mark holds for both.
func (k kernelLinks) owned(l netlink.Link) bool {
	if !creatable(observedKind(l)) {
		return false
	}
	if marked(l) || l.Attrs().Group == linkGroup {
		return true
	}
	peer, ok := k.peer(l)
	return ok && (marked(peer) || peer.Attrs().Group == linkGroup)
}

// marked tells whether the link has our alias.
func marked(l netlink.Link) bool {
	alias := l.Attrs().Alias
	return alias == LinkAlias || strings.HasPrefix(alias, LinkAlias+" ")
}

func observedKind(l netlink.Link) hosts.LinkKind {
	switch l.Type() {
	case "bridge":
		return hosts.LinkBridge
	case "veth":
		return hosts.LinkVeth
	}
	return hosts.LinkPhysical
}

// observeLinks returns the wanted links, those that nodeagent made, and those
// that hold an address of its own, sorted by name.
func (sys *System) observeLinks(kernel kernelLinks, want State) ([]Link, error) {
	addresses, err := dump(sys.listAddresses)
	onLink := map[int][]kernelAddress{}
	for _, a := range addresses {
		onLink[a.index] = append(onLink[a.index], a)
	}
	wanted := byName(want.Links)
	var links []Link
	for _, k := range kernel.list {
		w, isWanted := wanted[k.Attrs().Name]
		l := kernel.link(k)
		l.Addresses = managedAddresses(onLink[k.Attrs().Index], l.Owned, w)
		if isWanted || l.Owned || hasOwned(l.Addresses) && !ofAnotherPart(k, want) {
			links = append(links, l)
		}
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return links, err
}

// link translates the kernel's link, without its addresses.
func (k kernelLinks) link(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Name: a.Name, Kind: observedKind(l), MTU: a.MTU, Up: a.Flags&1 != 0, // net.FlagUp
		Owned: k.owned(l), Marked: marked(l),
	}
	if t := l.Type(); t != "device" {
		link.Driver = t
	}
	if a.MasterIndex != 0 {
		link.Master = k.name(a.MasterIndex)
	}
	if peer, ok := k.peer(l); ok {
		link.Peer = peer.Attrs().Name
	}
	return link
}

// ofAnotherPart tells whether the link is one that another part of this package
// makes and whose addresses it keeps: a WireGuard device.
func ofAnotherPart(l netlink.Link, want State) bool {
	if want.WireGuard != nil && want.WireGuard.Interface == l.Attrs().Name {
		return true
	}
	return marked(l) && !creatable(observedKind(l))
}

// managedAddresses chooses among the addresses of a link those that Diff is to
// look at: of global scope, of our own protocol, or wanted.
func managedAddresses(kernel []kernelAddress, ownedLink bool, w Link) []Address {
	var addresses []Address
	for _, k := range kernel {
		ours := k.protocol == AddressProtocol ||
			ownedLink && k.protocol == 0 && k.permanent && k.global
		if k.peer || !(k.global || ours || hasPrefix(w.Addresses, k.prefix)) {
			continue
		}
		addresses = append(addresses, Address{Prefix: k.prefix, Owned: ours})
	}
	sortAddresses(addresses)
	return addresses
}

func hasOwned(addresses []Address) bool {
	return slices.ContainsFunc(addresses, func(a Address) bool { return a.Owned })
}

// dump repeats a listing that the kernel says was changed while it was read
// (NLM_F_DUMP_INTR): such a list may lack entries, and a missing address would
// be a change that is none.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const attempts = 20
	for attempt := 1; ; attempt++ {
		found, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
		if attempt == attempts {
			return found, fmt.Errorf("the list changed during each of %d attempts: %w", attempts, err)
		}
	}
}

// addrFrom converts what the library returns; the zero Addr for nil.
func addrFrom(ip []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
