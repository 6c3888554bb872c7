package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

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
	if want.needsHardware(have.Names) {
		have.Hardware = kernel.hardware()
		want = want.resolved(have)
	}
	var failed []error
	have.Links, err = sys.observeLinks(kernel, want, want.needsVLANs() || scope == everyRoute)
	if err != nil {
		failed = append(failed, err)
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
	info    map[int]linkInfo // by index, of links that have any
}

func (sys *System) listLinks() (kernelLinks, error) {
	req := sys.request(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	messages, err := dump(func() ([][]byte, error) { return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK) })
	k := kernelLinks{
		list: make([]netlink.Link, 0, len(messages)), byIndex: make(map[int]netlink.Link, len(messages)), info: map[int]linkInfo{},
	}
	for _, m := range messages {
		l, parseErr := netlink.LinkDeserialize(nil, m)
		if parseErr != nil {
			return k, fmt.Errorf("parse link: %w", parseErr)
		}
		info, parseErr := readLinkInfo(m)
		if parseErr != nil {
			return k, fmt.Errorf("parse link %q: %w", l.Attrs().Name, parseErr)
		}
		index := l.Attrs().Index
		k.list, k.byIndex[index], k.info[index] = append(k.list, l), l, info
	}
	return k, err
}

// extSkipStats is RTEXT_FILTER_SKIP_STATS: counters are most of a link's message.
const extSkipStats = 8

// hardware lists what a physical link of a spec can be: what has no kind, and
// ends of veth pairs, which stand for hardware in a container. Bridges, bonds and
// VLANs are left out, for they bear the address of the hardware that they use.
func (k kernelLinks) hardware() []Hardware {
	var hardware []Hardware
	for _, l := range k.list {
		a := l.Attrs()
		if t := l.Type(); t != "device" && t != "veth" || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		h := Hardware{Name: a.Name, MAC: a.PermHWAddr.String(), Path: a.ParentDev, AltNames: slices.Sorted(slices.Values(a.AltNames))}
		if h.MAC == "" {
			h.MAC = a.HardwareAddr.String()
		}
		hardware = append(hardware, h)
	}
	slices.SortFunc(hardware, func(a, b Hardware) int { return strings.Compare(a.Name, b.Name) })
	return hardware
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
	if kind := hosts.LinkKind(l.Type()); creatable(kind) {
		return kind
	}
	return hosts.LinkPhysical
}

// observeLinks returns the wanted links, those that nodeagent made, and those
// that hold an address of its own, sorted by name.
func (sys *System) observeLinks(kernel kernelLinks, want State, readVLANs bool) ([]Link, error) {
	var failed []error
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		failed = append(failed, fmt.Errorf("list addresses: %w", explain(err)))
	}
	var vlans map[int]VLANs
	if readVLANs {
		vlans, err = sys.portVLANs()
		failed = append(failed, err)
	}
	onLink := map[int][]kernelAddress{}
	for _, a := range addresses {
		onLink[a.index] = append(onLink[a.index], a)
	}
	wanted := byName(want.Links)
	var links []Link
	for _, k := range kernel.list {
		w, isWanted := wanted[k.Attrs().Name]
		if w.Lost != "" {
			isWanted = false
		}
		l := kernel.link(k)
		l.Addresses = managedAddresses(onLink[k.Attrs().Index], l.Owned || isWanted && w.Adopt && fits(l, w), w)
		if !isWanted && !l.Owned && !l.Placed && (!hasOwned(l.Addresses) || ofAnotherPart(k, want)) {
			continue
		}
		kernel.readSettings(&l, k)
		if v, read := vlans[k.Attrs().Index]; read && l.Master != "" {
			l.VLANs = &v
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return links, errors.Join(failed...)
}

// needsVLANs tells whether VLANs of ports matter: they take a listing of their
// own.
func (s State) needsVLANs() bool {
	return slices.ContainsFunc(s.Links, func(l Link) bool { return l.VLANs != nil })
}

// readSettings reads what the kernel tells of the link's kind and of its port.
func (k kernelLinks) readSettings(l *Link, from netlink.Link) {
	info := k.info[from.Attrs().Index]
	l.Settings = decodeSettings(kindAttributes[l.Kind], info.data, k.name)
	if strings.TrimRight(string(info.portKind), "\x00") == "bridge" {
		l.Port = decodeSettings(portAttributes, info.portData, k.name)
	}
}

// link translates the kernel's link, without its addresses.
func (k kernelLinks) link(l netlink.Link) Link {
	a := l.Attrs()
	link := Link{
		Name: a.Name, Kind: observedKind(l), MTU: a.MTU, Up: a.Flags&1 != 0, // net.FlagUp
		Owned: k.owned(l), Marked: marked(l), Placed: a.Group == portGroup, Alias: a.Alias,
		MAC: a.HardwareAddr.String(), AltNames: slices.Sorted(slices.Values(a.AltNames)),
	}
	if parented(link.Kind) && a.NetNsID == -1 {
		link.Parent = k.name(a.ParentIndex)
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
		addresses = append(addresses, k.managed(ours))
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
func dump[T any](list func() (T, error)) (T, error) {
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
