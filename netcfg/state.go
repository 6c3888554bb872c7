// Package netcfg configures the host's network over netlink: links, addresses,
// routes, WireGuard and the firewall. One State describes what is wanted or
// observed, Diff compares two of them, Apply carries the changes out.
//
// Ownership: only what the spec names is managed. Routes made here carry the
// routing protocol number [RouteProtocol], links made here an alias that
// begins with [LinkAlias], the packet filter is the nftables table
// [FirewallTable]; by these marks what a spec no longer names is found and
// removed, and nothing else is ever touched.
package netcfg

import (
	"context"
	"net/netip"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Domain is the name of this domain in plans.
const Domain = "network"

// RouteProtocol marks routes that nodeagent made (rtm_protocol; the range
// above 4 is free to users, see rtnetlink(7); 17 to 185 hold the numbers of
// known daemons).
const RouteProtocol = 229

// LinkAlias begins the alias (ifalias) of links that nodeagent made.
const LinkAlias = "nodeagent"

// FirewallTable is the name of nodeagent's nftables table of family inet.
const FirewallTable = "nodeagent"

// State is the network of one host as far as it is managed. Want and Observe
// give the same type, so that Diff is one comparison.
type State struct {
	Links  []Link  // parents before children, masters before ports
	Routes []Route // sorted
	// WireGuard is nil where the host has, or is to have, no device of ours.
	WireGuard *WireGuard
	// Firewall is nil where there is, or is to be, no table of ours.
	Firewall *Firewall
}

// Link is one network link with its addresses.
type Link struct {
	Name   string
	Kind   hosts.LinkKind
	MTU    int    // 0: not managed (wanted only)
	Master string // "" for none
	Peer   string // other end of a veth
	Up     bool
	// Addresses of the link, sorted. Wanted: those of the spec. Observed: all
	// of global scope.
	Addresses []Address
	// Owned tells that nodeagent made the link (by its alias).
	Owned bool
	// Exists is false for a wanted link that was not found.
	Exists bool
}

// Address is one address of a link.
type Address struct {
	Prefix netip.Prefix
	// Owned tells that nodeagent added it. The kernel keeps an address
	// protocol (IFA_PROTO, Linux 5.18) for this.
	Owned bool
}

// Route is one route of the main table.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr
	Device      string
	Metric      int
	Source      netip.Addr
}

// op is one kernel edit: the Payload of every Change of this package.
type op interface {
	apply(ctx context.Context, sys *System) error
}

var _ = plan.Change{}
