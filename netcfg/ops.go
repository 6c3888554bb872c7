package netcfg

import "net/netip"

// The kernel edits of links, addresses and routes, as values. Each one finds
// its link by name when it is applied, may be applied twice, and stops between
// two writes when its context is done.
type (
	// createLink makes a link with the settings of its kind, a veth pair with
	// the other end that is named by link.Peer, and then sets the rest.
	createLink struct {
		link Link
		rest setLink
	}
	// setLink changes what is set of an existing link.
	setLink struct {
		name         string
		mark         bool      // set our alias
		adopt        bool      // mark although somebody else made it
		alias        *string   // set this alias, which is not ours; nil: leave
		settings     []Setting // of its kind
		mac          string    // "": leave
		mtu          int       // 0: leave
		master       *string   // nil: leave; "": none
		placed       *bool     // note whose port it is; nil: leave
		primary      bool      // make it the primary port of its new bond
		port         []Setting // as a port of a bridge
		vlans        *VLANs    // exactly those; nil: leave
		altNames     []string  // to be added
		dropAltNames []string
		up           bool // bring up
		down         bool // bring down
		bridges      []keepMTU
	}
	// deleteLink removes a link of ours, or one that is taken over and has to be
	// made anew.
	deleteLink struct {
		name    string
		adopt   bool
		bridges []keepMTU
	}
	// addAddress adds an address and marks it as ours; with replace it gives one
	// that is there other lifetimes and flags, and leaves its maker's mark.
	addAddress struct {
		link    string
		address Address
		replace bool
	}
	// replaceAddresses exchanges addresses for the same ones with another prefix
	// length, of which the kernel keeps no two on one link (IPv6), or with
	// another scope, of which it keeps no two in one network (IPv4).
	replaceAddresses struct {
		link string
		old  []netip.Prefix
		new  []Address
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

// keepMTU names the master of which something is wanted that must be set again
// after one of its ports changed: until somebody has set it, a bridge takes the
// smallest MTU of its ports, and a bond that loses its last port takes a random
// hardware address.
type keepMTU struct {
	bridge string
	mtu    int    // 0: leave
	mac    string // "": leave
}
