package netcfg

import (
	"fmt"
	"net/netip"
)

// A Way is a connection that must stay possible: the one by which somebody
// works on the host, or one that the host needs.
type Way struct {
	// Name says what it is for, for people: "the SSH session from 192.0.2.7".
	Name string
	// Inbound tells that the remote end opens it.
	Inbound bool
	// Protocol is "tcp" or "udp".
	Protocol string
	// Local is the host's end and Remote the other's. A port of 0 is not known,
	// nor is an address that is not valid; without Remote nothing is judged.
	Local, Remote netip.AddrPort
	// Tunnel names the WireGuard device whose outer packets go this way: they
	// never arrive when they are routed into it again.
	Tunnel string
}

// CutKind is what cuts a way.
type CutKind string

// The kinds of cuts.
const (
	// CutFirewall: the firewall accepts no new connection; those that are open
	// stay, since it accepts what is established.
	CutFirewall CutKind = "firewall"
	// CutAddress: the host no longer has the address that the way ends at.
	CutAddress CutKind = "address"
	// CutNoRoute: no route leads to the other end.
	CutNoRoute CutKind = "no route"
	// CutRefused: a route or a policy rule discards what is sent there.
	CutRefused CutKind = "refused"
	// CutOwnTunnel: a tunnel's outer packets would go into the tunnel.
	CutOwnTunnel CutKind = "own tunnel"
	// CutNoPeer: the route leads into WireGuard, none of whose peers is allowed
	// the address.
	CutNoPeer CutKind = "no peer"
	// CutReversePath: what the other end sends is dropped where it comes in,
	// since the way back leads elsewhere.
	CutReversePath CutKind = "reverse path"
	// CutSysctl: a sysctl that is to be set does it.
	CutSysctl CutKind = "sysctl"
)

// Cut is a way that would be cut. It is only said of what is certain.
type Cut struct {
	Way  Way
	Kind CutKind
	// Already tells that the way is cut now, too, so that the change takes
	// nothing away.
	Already bool
	// Why completes "the way would be cut: …".
	Why string
	// By is what of the wanted state does it; the zero value where it is what
	// the state lacks.
	By CutBy
}

// CutBy names a part of the wanted state, for the line of the spec that it
// comes from.
type CutBy struct {
	// Route is the wanted route's destination, with its Table (0: the main one).
	Route netip.Prefix
	Table int
	// Rule is the wanted policy rule's priority.
	Rule int
	// WireGuard and Firewall tell that it is one of them as a whole.
	WireGuard, Firewall bool
	// Sysctl is the canonical name of one.
	Sysctl string
}

// String returns "the SSH session from 192.0.2.7 would be cut: …".
func (c Cut) String() string {
	verb := "would be cut"
	if c.Already {
		verb = "is cut and would stay so"
	}
	return fmt.Sprintf("%s %s: %s", c.Way.Name, verb, c.Why)
}

// Reach returns those of the ways that would certainly be cut once the host is
// as wanted: its firewall would refuse a new connection, the address at which
// the way ends would be gone, or nothing would lead to the other end. have is
// the observed state and now the host's surroundings ([System.Surroundings]).
//
// What cannot be known is not claimed: whether a gateway forwards, whether a
// link has a carrier, what a packet mark will be, what other hosts let through.
// What others made on the host counts as staying, unless the wanted state takes
// its place. Packets from the other end are taken to come in by a link over
// which some route leads there (the feasible paths of RFC 3704, 2.3), or by one
// that has the address that they are for.
func Reach(want, have State, now Surroundings, ways []Way) []Cut {
	want = want.resolved(have)
	plain := pictureAfter(want, now)
	effects := now.sysctlEffects()
	after := plain
	for _, e := range effects {
		e.apply(&after)
	}
	before := pictureNow(have, now)
	if now.declared {
		before = after // what is declared is all that is known
	}
	var cuts []Cut
	for _, w := range ways {
		if !w.Remote.Addr().IsValid() {
			continue
		}
		why := bySysctl(after.cuts(w, before), w, plain, before, effects)
		if why == nil {
			continue
		}
		already := !now.declared && before.cuts(w, before) != nil
		cuts = append(cuts, Cut{Way: w, Kind: why.kind, Why: why.text, By: why.by, Already: already})
	}
	return cuts
}

// reason is why a way is cut.
type reason struct {
	kind CutKind
	text string
	by   CutBy
}

// cuts returns why the way is cut in the picture, nil where it is open or it
// cannot be told. arrivals is the picture by which packets come in: where the
// other end's packets arrive is decided by the routers between, as they are now.
func (p picture) cuts(w Way, arrivals picture) *reason {
	remote, local := w.Remote.Addr().Unmap(), w.Local.Addr().Unmap()
	if remote.IsLoopback() || remote.IsLinkLocalUnicast() || p.isLocal(remote) {
		return nil
	}
	if w.Inbound && local.IsValid() && !p.isLocal(local) {
		return &reason{kind: CutAddress, text: fmt.Sprintf("the host would no longer have the address %s", local)}
	}
	var links []string
	if w.Inbound {
		links = p.arrivalLinks(arrivals, w)
		if why := p.refuses(w, links); why != nil {
			return why
		}
	}
	if why := p.leads(flow{way: w, from: local, to: remote}); why != nil {
		return why
	}
	return p.strays(w, links)
}

// isLocal tells whether the address is, or may be, the host's own.
func (p picture) isLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	for _, own := range p.addresses {
		if own.prefix.Addr() == a {
			return true
		}
	}
	for _, r := range p.routes {
		if r.kind == routeLocal && !r.own && r.to.Contains(a) {
			return true
		}
	}
	return false
}
