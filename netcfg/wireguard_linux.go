package netcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// observeWireGuard returns the wanted device as it is, or where none is wanted
// the one that nodeagent made, or nil. Reading a device needs CAP_NET_ADMIN.
// With an error it returns what was seen nevertheless.
func (sys *System) observeWireGuard(ctx context.Context, kernel kernelLinks, want *WireGuard) (*WireGuard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ours, err := sys.ourWireGuard(kernel)
	if want == nil {
		return ours, err
	}
	failed := []error{err}
	have := &WireGuard{Interface: want.Interface, Folder: want.Folder}
	if ours != nil {
		have.Program = ours.Program
	}
	if ours != nil && ours.Interface != want.Interface {
		have = ours // to be deleted first
		have.Folder = want.Folder
	}
	key, err := readWireGuardKey(want.Folder)
	if err != nil {
		failed = append(failed, err)
	} else if key != (wgtypes.Key{}) {
		have.HostKey = key.PublicKey()
	}
	have.PresharedFiles = readPresharedFiles(want, key)
	if err := sys.observeWireGuardLink(kernel, have, key); err != nil {
		failed = append(failed, fmt.Errorf("read wireguard device %q: %w", have.Interface, err))
	}
	return have, errors.Join(failed...)
}

// ourWireGuard returns a device that nodeagent made, or the one that its program
// is set up for although there is none; nil where there is neither.
func (sys *System) ourWireGuard(kernel kernelLinks) (*WireGuard, error) {
	program, err := "", error(nil)
	if sys.Userspace != nil {
		program, err = sys.Userspace.Device()
	}
	var ours *WireGuard
	if program != "" {
		ours = &WireGuard{Interface: program, Owned: true, Marked: true, Userspace: true}
	}
	for _, l := range kernel.list {
		if ourDevice(l) {
			ours = &WireGuard{Interface: l.Attrs().Name, Owned: true, Marked: marked(l), Userspace: l.Type() != kindWireGuard, Device: WireGuardLink}
			break
		}
	}
	if ours != nil {
		ours.Program = program
	}
	return ours, err
}

// The kernel's words for devices of its own and for those of programs.
const (
	kindWireGuard = "wireguard"
	kindTun       = "tuntap"
)

// ourDevice tells whether the link is a WireGuard device of nodeagent's.
func ourDevice(l netlink.Link) bool {
	switch l.Type() {
	case kindWireGuard, kindTun:
		return marked(l) || l.Attrs().Group == linkGroup
	}
	return false
}

func (sys *System) observeWireGuardLink(kernel kernelLinks, have *WireGuard, host wgtypes.Key) error {
	i := slices.IndexFunc(kernel.list, func(l netlink.Link) bool { return l.Attrs().Name == have.Interface })
	if i < 0 {
		have.Device = NoDevice
		have.KernelLacks = !kernelWireGuard()
		return nil
	}
	link := kernel.list[i]
	have.Marked, have.Owned = marked(link), ourDevice(link)
	have.Userspace = link.Type() != kindWireGuard
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
	return sys.observeDevice(have, host)
}

// observeDevice asks the device itself; host is the host's private key.
func (sys *System) observeDevice(w *WireGuard, host wgtypes.Key) error {
	device, err := readWireGuard(w.Interface, w.Userspace)
	if errors.Is(err, fs.ErrNotExist) {
		w.Device = SomeDevice
		return nil
	}
	// Somebody answered, or one may not ask: it is a WireGuard device.
	w.Device = WireGuardLink
	if err != nil {
		w.Silent = true
		return err
	}
	w.Port = device.port
	switch device.privateKey {
	case wgtypes.Key{}:
	case host:
		w.PublicKey = w.HostKey // which is not worked out twice
	default:
		w.PublicKey = device.privateKey.PublicKey()
	}
	if host == (wgtypes.Key{}) {
		host = device.privateKey
	}
	record, now := sys.recorder.read(w.Folder, w.Interface), time.Now()
	w.Peers = make([]WireGuardPeer, len(device.peers))
	for i, at := range device.order() {
		p := &device.peers[at]
		recorded := record[p.publicKey]
		w.Peers[i] = observedPeer(p, recorded)
		w.Peers[i].PresharedKey = presharedDigest(host, p.preshared)
		w.Peers[i].Moved = sys.names.moved(p, recorded, now)
	}
	return nil
}

func observedPeer(p *peerReading, record recordedEndpoint) WireGuardPeer {
	peer := WireGuardPeer{PublicKey: p.publicKey, Keepalive: p.keepalive, AllowedIPs: p.allowed}
	if p.endpoint.IsValid() {
		peer.Endpoint = record.endpoint
	}
	slices.SortFunc(peer.AllowedIPs, comparePrefixes)
	return peer
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
	device, err := readWireGuardNamed(o.device)
	if errors.Is(err, fs.ErrNotExist) {
		return wgtypes.Key{}, nil
	}
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("read wireguard device %q: %w", o.device, err)
	}
	return device.privateKey, nil
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
func (o setWireGuardPeer) apply(ctx context.Context, sys *System) error {
	config := wgtypes.PeerConfig{PublicKey: o.peer.PublicKey}
	if o.allowed {
		config.ReplaceAllowedIPs = o.lost
		for _, p := range o.peer.AllowedIPs {
			config.AllowedIPs = append(config.AllowedIPs, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
		}
	}
	if o.keepalive {
		config.PersistentKeepaliveInterval = &o.peer.Keepalive
	}
	if err := o.applyPreshared(ctx, &config); err != nil {
		return err
	}
	var unresolved error
	if o.endpoint {
		config.Endpoint, unresolved = sys.names.resolve(ctx, o.peer.Endpoint)
	}
	if err := configure(ctx, o.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{config}}); err != nil {
		return err
	}
	if !o.endpoint || unresolved != nil {
		return unresolved
	}
	return sys.recordEndpoint(o.folder, o.name, o.peer.PublicKey, o.peer.Endpoint)
}

// applyPreshared keeps the preshared key that goes and reads the one that comes.
func (o setWireGuardPeer) applyPreshared(ctx context.Context, config *wgtypes.PeerConfig) error {
	if o.keep {
		this := func(key wgtypes.Key) bool { return key == o.peer.PublicKey }
		if err := edit(ctx, func() error { return keepPreshared(o.folder, o.name, this) }); err != nil {
			return err
		}
	}
	switch {
	case o.preshared.file != "":
		key, err := readPreshared(o.preshared.file)
		if err != nil {
			return err
		}
		config.PresharedKey = &key
	case o.preshared.remove:
		config.PresharedKey = &wgtypes.Key{} // the zero key removes it
	}
	return nil
}

func (o deleteWireGuardPeer) apply(ctx context.Context, sys *System) error {
	if o.keep {
		this := func(key wgtypes.Key) bool { return key == o.key }
		if err := edit(ctx, func() error { return keepPreshared(o.folder, o.name, this) }); err != nil {
			return err
		}
	}
	// UpdateOnly: removing one that is gone must not first make it.
	remove := wgtypes.PeerConfig{PublicKey: o.key, Remove: true, UpdateOnly: true}
	if err := configure(ctx, o.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{remove}}); err != nil {
		return err
	}
	return sys.recordEndpoint(o.folder, o.name, o.key, "")
}
