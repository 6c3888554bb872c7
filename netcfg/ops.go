package netcfg

import "net/netip"

// The kernel edits of links, addresses and routes, as values. Each one finds
// its link by name when it is applied, may be applied twice, and stops between
// two writes when its context is done.
type (
	// createLink makes a bridge, or a veth pair whose other end is named by
	// link.Peer, and gives this end its settings.
	createLink struct {
		link    Link
		bridges []keepMTU
	}
	// setLink changes what is set of an existing link.
	setLink struct {
		name    string
		mark    bool    // set our alias
		mtu     int     // 0: leave
		master  *string // nil: leave; "": none
		up      bool    // bring up
		down    bool    // bring down
		bridges []keepMTU
	}
	// deleteLink removes a link of ours.
	deleteLink struct {
		name    string
		bridges []keepMTU
	}
	// addAddress adds an address and marks it as ours.
	addAddress struct {
		link   string
		prefix netip.Prefix
	}
	// replaceAddress exchanges an IPv6 address for the same one with another
	// prefix length: the kernel keeps no two of them on one link.
	replaceAddress struct {
		link     string
		old, new netip.Prefix
	}
	// deleteAddress deletes one address and no other: secondary addresses of
	// its network are kept.
	deleteAddress struct {
		link   string
		prefix netip.Prefix
	}
	// putRoute makes a route; with replace in the place of one with the same
	// table, destination and metric.
	putRoute struct {
		route   Route
		replace bool
	}
	// deleteRoute removes a route of ours.
	deleteRoute struct{ route Route }
	// putRule adds a policy rule.
	putRule struct{ rule Rule }
	// deleteRule removes a policy rule of the rule's own maker and no other.
	deleteRule struct{ rule Rule }
	// blocked is what cannot be done until somebody changes the host or the
	// spec; applying it fails with the reason.
	blocked struct{ reason string }
)

// keepMTU names the bridge whose MTU is wanted and must be set again after one
// of its ports changed: until somebody has set it, a bridge takes the smallest
// MTU of its ports.
type keepMTU struct {
	bridge string
	mtu    int
}
