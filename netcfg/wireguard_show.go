package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// WireGuardStatus is one WireGuard device as it is now. Its JSON keys are stable,
// and it holds no secret.
type WireGuardStatus struct {
	Interface string `json:"interface"`
	// Userspace: a program serves the device and not the kernel.
	Userspace bool   `json:"userspace"`
	PublicKey string `json:"publicKey,omitempty"`
	Port      int    `json:"port,omitempty"`
	// Peers are sorted by name, those of no known name last.
	Peers []WireGuardPeerStatus `json:"peers"`
}

// WireGuardPeerStatus is one peer of a device.
type WireGuardPeerStatus struct {
	// Name is that of the fleet's host or client, empty for a peer that the
	// fleet does not know.
	Name             string         `json:"name,omitempty"`
	PublicKey        string         `json:"publicKey"`
	Endpoint         string         `json:"endpoint,omitempty"` // where the peer was last heard
	Handshake        time.Time      `json:"latestHandshake,omitzero"`
	ReceivedBytes    int64          `json:"receivedBytes"`
	SentBytes        int64          `json:"sentBytes"`
	KeepaliveSeconds int            `json:"keepaliveSeconds,omitempty"`
	Preshared        bool           `json:"presharedKey"`
	Allowed          []netip.Prefix `json:"allowedAddresses"`
}

// ShowWireGuard returns the WireGuard devices of the host, sorted by name, with
// the names that the spec gives to peers. It needs CAP_NET_ADMIN.
func ShowWireGuard(spec *hosts.Spec) ([]WireGuardStatus, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("list wireguard devices: %w", explain(err))
	}
	devices, err := client.Devices()
	if err = errors.Join(err, client.Close()); err != nil {
		return nil, fmt.Errorf("list wireguard devices: %w", explain(err))
	}
	names := map[wgtypes.Key]string{}
	if want := wantWireGuard(spec, ""); want != nil {
		for _, p := range want.Peers {
			names[p.PublicKey] = p.Name
		}
	}
	list := []WireGuardStatus{}
	for _, d := range devices {
		list = append(list, deviceStatus(d, names))
	}
	slices.SortFunc(list, func(a, b WireGuardStatus) int { return strings.Compare(a.Interface, b.Interface) })
	return list, nil
}

func deviceStatus(d *wgtypes.Device, names map[wgtypes.Key]string) WireGuardStatus {
	s := WireGuardStatus{Interface: d.Name, Userspace: d.Type == wgtypes.Userspace, Port: d.ListenPort, Peers: []WireGuardPeerStatus{}}
	if d.PrivateKey != (wgtypes.Key{}) {
		s.PublicKey = d.PublicKey.String()
	}
	for _, p := range readingOf(d).peers {
		peer := WireGuardPeerStatus{
			Name: names[p.publicKey], PublicKey: p.publicKey.String(), Handshake: p.handshake.UTC(),
			ReceivedBytes: p.received, SentBytes: p.sent,
			KeepaliveSeconds: int(p.keepalive / time.Second),
			Preshared:        p.preshared != (wgtypes.Key{}), Allowed: observedPeer(&p, recordedEndpoint{}).AllowedIPs,
		}
		if p.endpoint.IsValid() {
			peer.Endpoint = p.endpoint.String()
		}
		if peer.Allowed == nil {
			peer.Allowed = []netip.Prefix{}
		}
		s.Peers = append(s.Peers, peer)
	}
	slices.SortFunc(s.Peers, func(a, b WireGuardPeerStatus) int {
		if (a.Name == "") != (b.Name == "") {
			return strings.Compare(b.Name, a.Name)
		}
		return strings.Compare(a.Name+a.PublicKey, b.Name+b.PublicKey)
	})
	return s
}

// WireGuardKey returns the public half of the host's key and the file of the
// private one. The key is made where there is none; one that a device of the name
// has already is kept.
func WireGuardKey(ctx context.Context, root layout.Root, device string) (public, path string, made bool, err error) {
	folder := wireGuardFolder(root)
	before, err := readWireGuardKey(folder)
	if err != nil {
		return "", "", false, err
	}
	if err := (makeWireGuardKey{folder: folder, device: device}).apply(ctx, nil); err != nil {
		return "", "", false, err
	}
	key, err := readWireGuardKey(folder)
	if err != nil {
		return "", "", false, err
	}
	return key.PublicKey().String(), wireGuardKey(folder), before == (wgtypes.Key{}), nil
}

// WireGuardWarnings observes the spec's device and says what a person should
// know of it though nothing is to be changed, a line each.
func (sys *System) WireGuardWarnings(ctx context.Context, root layout.Root, spec *hosts.Spec) ([]string, error) {
	want := wantWireGuard(spec, root)
	if want == nil {
		return nil, nil
	}
	kernel, err := sys.listLinks()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", explain(err))
	}
	have, err := sys.observeWireGuard(ctx, kernel, want)
	if err != nil {
		return nil, err // the plan tells it as well
	}
	return wireGuardWarnings(have, want, kernelWireGuard()), nil
}

func wireGuardWarnings(have, want *WireGuard, kernelHas bool) []string {
	var list []string
	switch {
	case have.Userspace && kernelHas && have.Owned:
		list = append(list, fmt.Sprintf("WireGuard device %s runs in userspace though the kernel has WireGuard now; it is switched at the next boot, or at once (its sessions break off for a moment) by: systemctl stop %s", want.Interface, WireGuardUnit))
	case have.Userspace && have.Device == WireGuardLink && have.Owned:
		list = append(list, fmt.Sprintf("WireGuard device %s runs in userspace (%s), as this kernel has no WireGuard: it is slower than the kernel's", want.Interface, WireGuardUnit))
	case have.Userspace && have.Device == WireGuardLink:
		list = append(list, fmt.Sprintf("WireGuard device %s is one of a program that nodeagent did not start", want.Interface))
	}
	for _, p := range want.Peers {
		if _, there := have.PresharedFiles[p.PresharedFile]; p.PresharedFile != "" && !there {
			list = append(list, fmt.Sprintf("WireGuard peer %s has no preshared key: there is no file %s", p.label(), p.PresharedFile))
		}
	}
	return list
}

// WireGuardUnit is the systemd unit of the program that serves the device where
// the kernel has no WireGuard.
const WireGuardUnit = layout.UnitPrefix + "wireguard.service"
