package netcfg

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// WireGuard is the host's WireGuard device and its peers. The device is the
// kernel's, made here and marked as ours, or one of a userspace program
// (wireguard-go) that listens on its socket below /var/run/wireguard; that
// program is somebody else's to start, what it is configured with is ours.
//
// All peers of the device are nodeagent's: those that the spec does not name
// are removed.
type WireGuard struct {
	Interface string
	// Folder holds the private key and the record of endpoints.
	Folder string
	// Address is the host's own, wanted; Addresses are those of global scope
	// that the device has, observed.
	Address   netip.Prefix
	Addresses []Address
	MTU       int // 0: not managed (wanted only)
	Port      int // 0: not managed (wanted only)
	// PublicKey is, wanted, the one that the fleet declares, zero where it
	// declares none; observed, that of the device, zero where it has none.
	PublicKey wgtypes.Key
	Peers     []WireGuardPeer // sorted by public key

	// The rest is observed only.

	Device WireGuardDevice
	// HostKey is the public half of the key in Folder, zero where there is none.
	HostKey wgtypes.Key
	// Owned and Marked are as those of [Link].
	Owned, Marked, Up bool
}

// WireGuardDevice tells what bears the name of the device.
type WireGuardDevice int

const (
	// NoDevice: there is no such link.
	NoDevice WireGuardDevice = iota
	// SomeDevice: there is one that does not speak WireGuard.
	SomeDevice
	// WireGuardLink: it speaks WireGuard, in the kernel or in a program.
	WireGuardLink
)

// WireGuardPeer is one peer of the device.
type WireGuardPeer struct {
	Name       string // the peer's host name; wanted only, for messages
	PublicKey  wgtypes.Key
	AllowedIPs []netip.Prefix // masked and sorted
	// Endpoint is host:port. Wanted: the spec's, empty where it has none.
	// Observed: the spec's that was last set, which is not where the peer is
	// now if it roamed; empty where none is known or the device has none.
	Endpoint  string
	Keepalive time.Duration // 0: none
	// Preshared tells that the device has a preshared key; no spec wants one.
	Preshared bool
}

// String returns the peer in words: "10.9.0.2/32 at host:port, keepalive 25s".
func (p WireGuardPeer) String() string {
	words := []string{"no addresses"}
	if len(p.AllowedIPs) > 0 {
		words[0] = join(p.AllowedIPs)
	}
	if p.Endpoint != "" {
		words = append(words, "at "+p.Endpoint)
	}
	line := strings.Join(words, " ")
	if p.Keepalive > 0 {
		line += ", keepalive " + p.Keepalive.String()
	}
	if p.Preshared {
		line += ", with a preshared key"
	}
	return line
}

// label names a peer in messages: by its host's name, or by its key.
func (p WireGuardPeer) label() string {
	if p.Name != "" {
		return p.Name
	}
	return p.PublicKey.String()
}

// wireGuardFolder is where the private key lies.
func wireGuardFolder(root layout.Root) string { return filepath.Join(root.State(), "wireguard") }

// wireGuardKey is the file of the private key: base64 as wg(8) has it and a
// newline, mode 0600.
func wireGuardKey(folder string) string { return filepath.Join(folder, "private.key") }

// wantWireGuard returns the device of the spec, nil where it has none. A peer
// whose host has no public key in the fleet yet is left out: there is nothing
// to let in.
func wantWireGuard(spec *hosts.Spec, root layout.Root) *WireGuard {
	s := spec.Network.WireGuard
	if s == nil {
		return nil
	}
	w := &WireGuard{
		Interface: s.Interface, Folder: wireGuardFolder(root),
		Address: s.Address, MTU: s.MTU, Port: s.Port,
	}
	w.PublicKey, _ = wgtypes.ParseKey(s.PublicKey) // checked by hosts; zero where empty
	for _, p := range spec.Peers {
		if p.WireGuard == nil || p.WireGuard.PublicKey == "" {
			continue
		}
		key, err := wgtypes.ParseKey(p.WireGuard.PublicKey)
		if err != nil {
			continue // no valid spec has it
		}
		w.Peers = append(w.Peers, WireGuardPeer{
			Name: p.Name, PublicKey: key, AllowedIPs: allowedIPs(spec, p),
			Endpoint: p.WireGuard.Endpoint, Keepalive: s.Keepalive,
		})
	}
	sortPeers(w.Peers)
	return w
}

// allowedIPs are the addresses that a peer may send from: its own in the mesh
// and, where nodeagent gives pods their addresses, its pods'.
func allowedIPs(spec *hosts.Spec, p hosts.Peer) []netip.Prefix {
	ips := []netip.Prefix{netip.PrefixFrom(p.WireGuard.Address, p.WireGuard.Address.BitLen())}
	if spec.Kubernetes.CNI == "bridge" && p.PodRange.IsValid() {
		ips = append(ips, p.PodRange.Masked())
	}
	slices.SortFunc(ips, comparePrefixes)
	return ips
}

func sortPeers(peers []WireGuardPeer) {
	slices.SortFunc(peers, func(a, b WireGuardPeer) int {
		return slices.Compare(a.PublicKey[:], b.PublicKey[:])
	})
}

func (w *WireGuard) peer(key wgtypes.Key) (WireGuardPeer, bool) {
	for _, p := range w.Peers {
		if p.PublicKey == key {
			return p, true
		}
	}
	return WireGuardPeer{}, false
}

// declareKey is what to do about a fleet that does not name the host's own key.
func declareKey(key wgtypes.Key) string {
	return fmt.Sprintf("put public_key = %q into the host's file, table [wireguard], so that the other hosts let this one in", key)
}
