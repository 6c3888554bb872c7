package netcfg

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// wireGuardReading is what a device says of itself.
type wireGuardReading struct {
	privateKey wgtypes.Key // zero: it has none
	port       int
	peers      []peerReading // in the device's order, which is any
}

// peerReading is what a device says of one peer.
type peerReading struct {
	publicKey, preshared wgtypes.Key // preshared: zero for none
	// endpoint is where the peer was last heard, or is to be called; the zero
	// value where nobody said.
	endpoint       netip.AddrPort
	handshake      time.Time // the latest; zero: none yet
	received, sent int64     // bytes
	keepalive      time.Duration
	allowed        []netip.Prefix
}

// readingBuilder gathers what a device says. The addresses of many peers are
// allocated together.
type readingBuilder struct {
	device  wireGuardReading
	allowed []netip.Prefix // those of the last peer begin at first
	first   int
}

// last returns the peer that is being read; nil before the first.
func (b *readingBuilder) last() *peerReading {
	if n := len(b.device.peers); n > 0 {
		return &b.device.peers[n-1]
	}
	return nil
}

// begin begins another peer. The last one must have been ended.
func (b *readingBuilder) begin() *peerReading {
	b.device.peers = append(b.device.peers, peerReading{})
	return b.last()
}

// end closes the last peer.
func (b *readingBuilder) end() {
	if len(b.allowed) > b.first {
		b.last().allowed = slices.Clip(b.allowed[b.first:])
	}
	b.first = len(b.allowed)
}

// allowedAtOnce is for how many addresses memory is taken.
const allowedAtOnce = 256

func (b *readingBuilder) allow(prefix netip.Prefix) {
	if len(b.allowed) == cap(b.allowed) {
		mine := b.allowed[b.first:]
		b.allowed = append(make([]netip.Prefix, 0, max(allowedAtOnce, 2*len(mine))), mine...)
		b.first = 0
	}
	b.allowed = append(b.allowed, prefix)
}

// unixTime is the zero time for no handshake, which devices tell as 0.
func unixTime(seconds, nanoseconds int64) time.Time {
	if seconds == 0 && nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, nanoseconds)
}

// order lists the places of the peers in the order of their public keys.
func (r *wireGuardReading) order() []int32 {
	order := make([]int32, len(r.peers))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return bytes.Compare(r.peers[a].publicKey[:], r.peers[b].publicKey[:])
	})
	return order
}
