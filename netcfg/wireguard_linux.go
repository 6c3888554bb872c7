package netcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// resolveTimeout is how long the name of an endpoint may take to resolve.
const resolveTimeout = 5 * time.Second

// observeWireGuard returns the wanted device as it is, or where none is wanted
// the one that nodeagent made, or nil. Reading a device needs CAP_NET_ADMIN.
// With an error it returns what was seen nevertheless.
func (sys *System) observeWireGuard(ctx context.Context, kernel kernelLinks, want *WireGuard) (*WireGuard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ours := kernel.ourWireGuard()
	if want == nil {
		return ours, nil
	}
	have := &WireGuard{Interface: want.Interface, Folder: want.Folder}
	if ours != nil && ours.Interface != want.Interface {
		have = ours // to be deleted first
		have.Folder = want.Folder
	}
	var failed []error
	key, err := readWireGuardKey(want.Folder)
	if err != nil {
		failed = append(failed, err)
	} else if key != (wgtypes.Key{}) {
		have.HostKey = key.PublicKey()
	}
	if err := sys.observeWireGuardLink(kernel, have); err != nil {
		failed = append(failed, fmt.Errorf("read wireguard device %q: %w", have.Interface, err))
	}
	return have, errors.Join(failed...)
}

// ourWireGuard returns a device that nodeagent made, nil where there is none.
func (k kernelLinks) ourWireGuard() *WireGuard {
	for _, l := range k.list {
		if l.Type() == "wireguard" && (marked(l) || l.Attrs().Group == linkGroup) {
			return &WireGuard{Interface: l.Attrs().Name, Owned: true, Marked: marked(l), Device: WireGuardLink}
		}
	}
	return nil
}

func (sys *System) observeWireGuardLink(kernel kernelLinks, have *WireGuard) error {
	i := slices.IndexFunc(kernel.list, func(l netlink.Link) bool { return l.Attrs().Name == have.Interface })
	if i < 0 {
		return nil
	}
	link := kernel.list[i]
	have.Marked = marked(link)
	have.Owned = link.Type() == "wireguard" && (have.Marked || link.Attrs().Group == linkGroup)
	have.MTU, have.Up = link.Attrs().MTU, link.Attrs().Flags&net.FlagUp != 0
	all, err := dump(sys.listAddresses)
	if err != nil {
		return fmt.Errorf("list addresses: %w", explain(err))
	}
	for _, a := range all {
		if a.index == link.Attrs().Index && a.global && !a.peer {
			have.Addresses = append(have.Addresses, Address{Prefix: a.prefix, Owned: a.protocol == AddressProtocol})
		}
	}
	sortAddresses(have.Addresses)
	return have.observeDevice()
}

// observeDevice asks the device itself.
func (w *WireGuard) observeDevice() error {
	device, err := wireGuardDevice(w.Interface)
	if errors.Is(err, fs.ErrNotExist) {
		w.Device = SomeDevice
		return nil
	}
	// Somebody answered, or one may not ask: it is a WireGuard device.
	w.Device = WireGuardLink
	if err != nil {
		return err
	}
	w.Port = device.ListenPort
	if device.PrivateKey != (wgtypes.Key{}) {
		w.PublicKey = device.PublicKey
	}
	record := readEndpoints(w.Folder, w.Interface)
	for _, p := range device.Peers {
		w.Peers = append(w.Peers, observedPeer(p, record))
	}
	sortPeers(w.Peers)
	return nil
}

func observedPeer(p wgtypes.Peer, record endpoints) WireGuardPeer {
	peer := WireGuardPeer{
		PublicKey: p.PublicKey, Keepalive: p.PersistentKeepaliveInterval,
		Preshared: p.PresharedKey != (wgtypes.Key{}),
	}
	if p.Endpoint != nil {
		peer.Endpoint = record[p.PublicKey.String()]
	}
	for _, ip := range p.AllowedIPs {
		ones, _ := ip.Mask.Size()
		peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(addrFrom(ip.IP), ones))
	}
	slices.SortFunc(peer.AllowedIPs, comparePrefixes)
	return peer
}

// wireGuardDevice asks the kernel, then the userspace devices, for a device.
// The error is fs.ErrNotExist where neither has it.
func wireGuardDevice(name string) (*wgtypes.Device, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, explain(err)
	}
	device, err := client.Device(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = explain(err)
	}
	return device, errors.Join(err, client.Close())
}

// configure changes what is set in config, and nothing else, of a device.
func configure(ctx context.Context, name string, config wgtypes.Config) error {
	client, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("configure wireguard device %q: %w", name, explain(err))
	}
	err = edit(ctx, func() error { return client.ConfigureDevice(name, config) })
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: there is no WireGuard device of this name", err)
	}
	if err = errors.Join(err, client.Close()); err != nil {
		return fmt.Errorf("configure wireguard device %q: %w", name, explain(err,
			hint{unix.EADDRINUSE, "another program has the port; see ss -ulpn"}))
	}
	return nil
}

// keyOfDevice returns the private key that the device has, zero where there is
// no device or it has none.
func (o makeWireGuardKey) keyOfDevice() (wgtypes.Key, error) {
	device, err := wireGuardDevice(o.device)
	if errors.Is(err, fs.ErrNotExist) {
		return wgtypes.Key{}, nil
	}
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read wireguard device %q: %w", o.device, err)
	}
	return device.PrivateKey, nil
}

func (o createWireGuard) apply(ctx context.Context, sys *System) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = o.name, linkGroup
	err := edit(ctx, func() error { return sys.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}) })
	switch {
	case errors.Is(err, unix.EEXIST):
		// Ours from an apply that was stopped, or somebody's that was made
		// meanwhile, which is then configured but not marked.
		link, err := sys.find(o.name)
		if err != nil || link.Attrs().Group != linkGroup {
			return err
		}
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("create wireguard device %q: this kernel has no WireGuard; load the module wireguard (add it to the kernel's modules in the spec), or run a userspace device of this name (wireguard-go %s): %w", o.name, o.name, err)
	case err != nil:
		return fmt.Errorf("create wireguard device %q: %w", o.name, explain(err))
	}
	return sys.mark(ctx, o.name)
}

func (o setWireGuard) apply(ctx context.Context, _ *System) error {
	var config wgtypes.Config
	if o.key {
		key, err := readWireGuardKey(o.folder)
		if err != nil {
			return err
		}
		if key == (wgtypes.Key{}) {
			return fmt.Errorf("set the key of wireguard device %q: the host has no key yet", o.name)
		}
		config.PrivateKey = &key
	}
	if o.port != 0 {
		config.ListenPort = &o.port
	}
	return configure(ctx, o.name, config)
}

// apply configures the peer even where the name of its endpoint does not
// resolve: the peer may reach this host by itself. The record is written last,
// so that a kill in between sets the endpoint once more.
func (o setWireGuardPeer) apply(ctx context.Context, _ *System) error {
	config := wgtypes.PeerConfig{PublicKey: o.peer.PublicKey}
	if o.allowed {
		config.ReplaceAllowedIPs = true
		for _, p := range o.peer.AllowedIPs {
			config.AllowedIPs = append(config.AllowedIPs, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
		}
	}
	if o.keepalive {
		config.PersistentKeepaliveInterval = &o.peer.Keepalive
	}
	if o.unpreshared {
		config.PresharedKey = &wgtypes.Key{} // the zero key removes it
	}
	var unresolved error
	if o.endpoint {
		config.Endpoint, unresolved = resolveEndpoint(ctx, o.peer.Endpoint)
	}
	if err := configure(ctx, o.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{config}}); err != nil {
		return err
	}
	if !o.endpoint || unresolved != nil {
		return unresolved
	}
	return recordEndpoint(o.folder, o.name, o.peer.PublicKey, o.peer.Endpoint)
}

// resolveEndpoint returns the address of host:port.
func resolveEndpoint(ctx context.Context, endpoint string) (*net.UDPAddr, error) {
	if a, err := netip.ParseAddrPort(endpoint); err == nil {
		return net.UDPAddrFromAddrPort(a), nil
	}
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: %w", endpoint, err)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: %w", endpoint, err)
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: %w; the peer is configured without it", endpoint, err)
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addresses[0].Unmap(), uint16(port))), nil
}

func (o deleteWireGuardPeer) apply(ctx context.Context, _ *System) error {
	// UpdateOnly: removing one that is gone must not first make it.
	remove := wgtypes.PeerConfig{PublicKey: o.key, Remove: true, UpdateOnly: true}
	if err := configure(ctx, o.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{remove}}); err != nil {
		return err
	}
	return recordEndpoint(o.folder, o.name, o.key, "")
}

func (o deleteWireGuard) apply(ctx context.Context, sys *System) error {
	kernel, err := sys.listLinks()
	if err != nil {
		return fmt.Errorf("list links: %w", explain(err))
	}
	for _, l := range kernel.list {
		if l.Attrs().Name != o.name {
			continue
		}
		if l.Type() != "wireguard" || !marked(l) && l.Attrs().Group != linkGroup {
			return fmt.Errorf("delete wireguard device %q: it is not nodeagent's any more; plan again", o.name)
		}
		if err := edit(ctx, func() error { return sys.nl.LinkDel(l) }); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete wireguard device %q: %w", o.name, explain(err))
		}
	}
	return nil
}
