package netcfg

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// WireGuard is the host's WireGuard device and its peers. The device is the
// kernel's, made here and marked as ours. Where the kernel has no WireGuard it is
// one of a program (see [Userspace]), which marks it as ours as well. A device of
// the name that some other program made (wireguard-go) is left to that program,
// and what it is configured with is ours.
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
	// Userspace: a program serves the device. KernelLacks: this kernel has no
	// WireGuard, neither loaded nor as a module; false where that is not known.
	Userspace, KernelLacks bool
	// Program is the device for which nodeagent's own program is set up, which
	// may be one that it does not get made; "" where there is none.
	Program string
	// PresharedFiles is what the preshared keys' files of the wanted peers hold,
	// by path; files that are not there are not in it.
	PresharedFiles map[string]PresharedFile
	// HostKey is the public half of the key in Folder, zero where there is none.
	HostKey wgtypes.Key
	// Silent: the device is there and did not tell how it is configured, which is
	// then no part of this and not compared. It is in no record.
	Silent bool `json:"-"`
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
	// PresharedFile is the file with the peer's preshared key, "" where it is to
	// have none; wanted only.
	PresharedFile string
	// PresharedKey stands for a preshared key (see [PresharedFile]), "" for none.
	// Observed: the device's. Wanted only on the way back ([Back]): the one that
	// the peer is to have again.
	PresharedKey string
	// Moved is the address to which the name in Endpoint leads now, where that is
	// another than the device's and the peer is silent; else "". Observed only.
	Moved string
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
	if p.PresharedKey != "" {
		line += ", preshared key " + p.PresharedKey
	}
	if p.Moved != "" {
		line += ", silent while its name leads to " + p.Moved
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

func sortPeers(peers []WireGuardPeer) {
	slices.SortFunc(peers, func(a, b WireGuardPeer) int {
		return bytes.Compare(a.PublicKey[:], b.PublicKey[:])
	})
}

// declareKey is what to do about a fleet that does not name the host's own key.
func declareKey(key wgtypes.Key) string {
	return fmt.Sprintf("put public_key = %q into the host's file, table [wireguard], so that the other hosts let this one in", key)
}

// kindWord says what serves the device.
func (w *WireGuard) kindWord() string {
	if w.Userspace {
		return programWord
	}
	return "wireguard"
}

func (w *WireGuard) hasPreshared() bool {
	return slices.ContainsFunc(w.Peers, func(p WireGuardPeer) bool { return p.PresharedKey != "" })
}
