package netcfg

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// The kernel edits of WireGuard. None holds a key that is a secret: the private
// key is read from its file when it is needed.
type (
	// makeWireGuardKey makes the host's private key unless there is one.
	makeWireGuardKey struct {
		folder, device string
		declared       wgtypes.Key
	}
	// createWireGuard makes a device of the kernel, or starts the program where
	// the kernel has none.
	createWireGuard struct {
		name      string
		userspace bool // what the plan says; the kernel is asked all the same
	}
	// stopWireGuardProgram removes a program whose device is not wanted of it.
	stopWireGuardProgram struct{}
	// setWireGuard gives the device the host's key, and a port unless it is 0.
	setWireGuard struct {
		name, folder string
		key          bool
		port         int
	}
	// setWireGuardPeer adds or changes one peer. Fields of the peer that are as
	// they should be are left alone.
	setWireGuardPeer struct {
		name, folder                 string
		peer                         WireGuardPeer
		allowed, endpoint, keepalive bool
		// lost are allowed addresses that the peer has and is not to have: the
		// whole list is then replaced. Else what is missing is added, and the
		// peer's traffic over the others goes on.
		lost      bool
		preshared presharedEdit
		keep      bool // the device has a preshared key, which is kept
	}
	// deleteWireGuardPeer removes one peer.
	deleteWireGuardPeer struct {
		name, folder string
		key          wgtypes.Key
		keep         bool
	}
	// deleteWireGuard removes a device of ours.
	deleteWireGuard struct {
		name, folder    string
		keep, userspace bool
	}
)

// diffWireGuard returns the changes to the device and its peers, in order: the
// key, the device, its settings, peers, addresses, and then it is brought up.
// Only the peers that differ are touched: to replace the whole list would end
// every session.
func diffWireGuard(have, want *WireGuard) []plan.Change {
	if want == nil {
		return dropWireGuard(have)
	}
	var changes []plan.Change
	if have == nil {
		have = &WireGuard{Folder: wireGuardFolder(layout.Root(""))}
	}
	if have.Owned && have.Interface != want.Interface {
		changes = dropWireGuard(have)
		have = &WireGuard{HostKey: have.HostKey, KernelLacks: have.KernelLacks, PresharedFiles: have.PresharedFiles}
	}
	changes = append(changes, diffWireGuardKey(have, want)...)
	if have.Device == SomeDevice {
		reason := fmt.Sprintf("link %q is there and does not speak WireGuard; remove or rename it, or change network.wireguard.interface", want.Interface)
		return append(changes, change(wireGuardLink(want), plan.ActionCreate, plan.Quiet, reason, "another link", "wireguard", blocked{reason}))
	}
	if !have.Silent {
		changes = append(changes, diffWireGuardDevice(have, want)...)
		changes = append(changes, diffWireGuardPeers(have, want)...)
	}
	return append(changes, diffWireGuardLink(have, want)...)
}

func wireGuardLink(w *WireGuard) string { return "wireguard " + w.Interface }

func dropWireGuard(have *WireGuard) []plan.Change {
	if have == nil || !have.Owned {
		return nil
	}
	return []plan.Change{change(wireGuardLink(have), plan.ActionDelete, plan.Disconnect, reasonUnwanted, have.kindWord(), "", deleteWireGuard{have.Interface, have.Folder, have.hasPreshared(), have.Userspace})}
}

// programWord says in plans that a program serves the device.
const programWord = "wireguard in userspace"

func diffWireGuardKey(have, want *WireGuard) []plan.Change {
	var zero wgtypes.Key
	switch {
	case have.HostKey == zero:
		after := "key to be made"
		if have.PublicKey != zero {
			after = "the key that the device has: " + have.PublicKey.String()
		}
		return []plan.Change{change("wireguard key", plan.ActionCreate, plan.Quiet, "the host has none in its file", "", after,
			makeWireGuardKey{want.Folder, want.Interface, want.PublicKey})}
	case want.PublicKey != zero && want.PublicKey != have.HostKey:
		reason := "the fleet declares another public key than the host has: " + declareKey(have.HostKey)
		return []plan.Change{change("wireguard key", plan.ActionUpdate, plan.Quiet, reason, have.HostKey.String(), want.PublicKey.String(), blocked{reason})}
	}
	return nil
}

func diffWireGuardDevice(have, want *WireGuard) []plan.Change {
	var changes []plan.Change
	if have.Device == NoDevice {
		reason, word := reasonMissing, "wireguard"
		if have.KernelLacks {
			reason, word = reasonMissing+"; this kernel has no WireGuard, so a program serves it", programWord
		}
		changes = append(changes, change(wireGuardLink(want), plan.ActionCreate, plan.Quiet, reason, "", word, createWireGuard{want.Interface, have.KernelLacks}))
	}
	if have.Device == WireGuardLink && !have.Userspace && have.Program != "" {
		changes = append(changes, change("wireguard program", plan.ActionDelete, plan.Quiet, "the kernel serves the device", have.Program, "", stopWireGuardProgram{}))
	}
	var zero wgtypes.Key
	rightKey := have.Device == WireGuardLink && have.PublicKey != zero && (have.PublicKey == have.HostKey || have.HostKey == zero)
	if !rightKey {
		before := ""
		if have.PublicKey != zero {
			before = have.PublicKey.String()
		}
		changes = append(changes, change(wireGuardLink(want)+" key", plan.ActionUpdate, effectIf(before != ""), "the device lacks the host's key", before,
			hostKeyWord(have.HostKey), setWireGuard{name: want.Interface, folder: want.Folder, key: true}))
	}
	if want.Port != 0 && have.Port != want.Port {
		before := ""
		if have.Port != 0 {
			before = fmt.Sprint(have.Port)
		}
		changes = append(changes, change(wireGuardLink(want)+" port", plan.ActionUpdate, effectIf(have.Device == WireGuardLink), reasonWireGuard, before,
			fmt.Sprint(want.Port), setWireGuard{name: want.Interface, folder: want.Folder, port: want.Port}))
	}
	return changes
}

const reasonWireGuard = "the device differs from the spec"

func hostKeyWord(key wgtypes.Key) string {
	if key == (wgtypes.Key{}) {
		return "key to be made"
	}
	return key.String()
}

// effectIf is disconnect where sessions may be cut.
func effectIf(cuts bool) plan.Effect {
	if cuts {
		return plan.Disconnect
	}
	return plan.Quiet
}

// diffWireGuardPeers goes through both lists of peers at once, as they are in the
// same order.
func diffWireGuardPeers(have, want *WireGuard) []plan.Change {
	var changes, gone []plan.Change
	left := have.Peers
	drop := func(n int) {
		for i := range left[:n] {
			h := &left[i]
			gone = append(gone, change("wireguard peer "+h.label(), plan.ActionDelete, plan.Disconnect,
				"the spec names no peer with this key", h.String(), "", deleteWireGuardPeer{want.Interface, want.Folder, h.PublicKey, h.PresharedKey != ""}))
		}
		left = left[n:]
	}
	for i := range want.Peers {
		w := &want.Peers[i]
		n := 0
		for n < len(left) && bytes.Compare(left[n].PublicKey[:], w.PublicKey[:]) < 0 {
			n++
		}
		drop(n)
		if len(left) == 0 || left[0].PublicKey != w.PublicKey {
			changes = append(changes, diffWireGuardPeer(have, want, &WireGuardPeer{}, w, false)...)
			continue
		}
		changes = append(changes, diffWireGuardPeer(have, want, &left[0], w, true)...)
		left = left[1:]
	}
	drop(len(left))
	return append(changes, gone...)
}

// diffWireGuardPeer returns the change to one peer. A peer whose preshared key
// cannot be had is not let in without it; one that is there keeps what it has,
// and the rest of it is put right.
func diffWireGuardPeer(have, want *WireGuard, h, w *WireGuardPeer, there bool) []plan.Change {
	edit, preshared := diffPreshared(have, h, w)
	allowed := !slices.Equal(h.AllowedIPs, w.AllowedIPs)
	endpoint := w.Endpoint != "" && (h.Endpoint != w.Endpoint || h.Moved != "")
	if there && !allowed && !endpoint && h.Keepalive == w.Keepalive && !edit.set() && edit.problem == "" {
		return nil
	}
	key := "wireguard peer " + w.label()
	var changes []plan.Change
	if edit.problem != "" {
		action, before := plan.ActionUpdate, h.PresharedKey
		if !there {
			action = plan.ActionCreate
		}
		changes = append(changes, change(key+" preshared key", action, plan.Quiet, edit.problem, before, w.PresharedFile, blocked{edit.problem}))
		if !there {
			return changes
		}
		edit = presharedEdit{}
	}
	o := setWireGuardPeer{name: want.Interface, folder: want.Folder, peer: *w, preshared: edit, keep: edit.set() && h.PresharedKey != ""}
	shown := *w
	shown.PresharedKey = preshared
	if !there {
		o.allowed, o.keepalive, o.endpoint = true, w.Keepalive > 0, w.Endpoint != ""
		return append(changes, change(key, plan.ActionCreate, plan.Quiet, reasonMissing, "", shown.String(), o))
	}
	o.allowed, o.endpoint, o.keepalive = allowed, endpoint, h.Keepalive != w.Keepalive
	if !o.allowed && !o.endpoint && !o.keepalive && !edit.set() {
		return changes
	}
	// Its own packets find a peer again where it is; what is cut is what it may
	// no longer send, and a preshared key that only one end has. A silent peer
	// has no session to lose.
	o.lost = o.allowed && losesAny(h.AllowedIPs, w.AllowedIPs)
	reason := "the peer differs from the spec"
	if h.Moved != "" {
		reason = "the peer is silent and the name of its endpoint leads elsewhere now"
	}
	cuts := o.lost || o.endpoint && h.Moved == "" || edit.set()
	return append(changes, change(key, plan.ActionUpdate, effectIf(cuts), reason, h.String(), shown.String(), o))
}

// losesAny tells whether one of the addresses is not among the others. Both
// lists are sorted.
func losesAny(had, keeps []netip.Prefix) bool {
	return slices.ContainsFunc(had, func(p netip.Prefix) bool {
		_, found := slices.BinarySearchFunc(keeps, p, comparePrefixes)
		return !found
	})
}

// diffWireGuardLink compares what the device has as a link. New addresses come
// before old ones go.
func diffWireGuardLink(have, want *WireGuard) []plan.Change {
	var changes []plan.Change
	set := setLink{name: want.Interface}
	var before, after []string
	if have.Owned && !have.Marked {
		set.mark = true
		before, after = append(before, "half made"), append(after, "made")
	}
	if want.MTU != 0 && have.MTU != want.MTU {
		set.mtu = want.MTU
		before, after = append(before, fmt.Sprintf("mtu %d", have.MTU)), append(after, fmt.Sprintf("mtu %d", want.MTU))
	}
	held := func(a Address) bool { return a.Prefix == want.Address }
	if want.Address.IsValid() && !slices.ContainsFunc(have.Addresses, held) {
		changes = append(changes, change(fmt.Sprintf("address %s on %s", want.Address, want.Interface), plan.ActionCreate, plan.Quiet,
			reasonMissing, "", want.Address.String(), addAddress{link: want.Interface, address: Address{Prefix: want.Address, Owned: true}}))
	}
	if !have.Up {
		set.up = true
		before, after = append(before, "down"), append(after, "up")
	}
	if len(after) > 0 {
		if have.Device == NoDevice {
			before = nil
		}
		changes = append(changes, change(wireGuardLink(want)+" link", plan.ActionUpdate, plan.Quiet, reasonWireGuard, join(before), join(after), set))
	}
	for _, a := range have.Addresses {
		if a.Owned && !held(a) {
			changes = append(changes, change(fmt.Sprintf("address %s on %s", a.Prefix, want.Interface), plan.ActionDelete, plan.Disconnect,
				reasonUnwanted, a.Prefix.String(), "", deleteAddress{want.Interface, a.Prefix}))
		}
	}
	return changes
}
