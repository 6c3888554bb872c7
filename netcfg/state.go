// Package netcfg configures the host's network over netlink: links, addresses,
// routes, WireGuard and the firewall. One State describes what is wanted or
// observed, Diff compares two of them, Apply carries the changes out.
//
// Ownership: only what the spec names is managed. Routes made here carry the
// routing protocol number [RouteProtocol], links made here an alias that
// begins with [LinkAlias], the packet filter is the nftables table
// [FirewallTable]; by these marks what a spec no longer names is found and
// removed. What somebody else made is left alone unless the spec names that
// very thing with other values; the plan then says whose it is.
package netcfg

import (
	"context"
	"net/netip"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// Domain is the name of this domain in plans.
const Domain = "network"

// RouteProtocol marks routes that nodeagent made (rtm_protocol; the range
// above 4 is free to users, see rtnetlink(7); 17 to 185 hold the numbers of
// known daemons).
const RouteProtocol = 229

// AddressProtocol marks addresses that nodeagent added (IFA_PROTO, which Linux
// keeps since 5.18; numbers up to 3 are the kernel's own, if_addr.h). An older
// kernel forgets it: addresses are then added all the same, but one that a
// spec drops stays on a link that is not ours.
const AddressProtocol = RouteProtocol

// LinkAlias begins the alias (ifalias) of links that nodeagent made.
const LinkAlias = "nodeagent"

// FirewallTable is the name of nodeagent's nftables table of family inet.
const FirewallTable = "nodeagent"

// State is the network of one host as far as it is managed. Want and Observe
// give the same type, so that Diff is one comparison.
type State struct {
	Links  []Link  // parents before children, masters before ports
	Routes []Route // sorted
	Rules  []Rule  // sorted
	// WireGuard is nil where the host has, or is to have, no device of ours.
	WireGuard *WireGuard
	// Firewall is nil where there is, or is to be, no table of ours.
	Firewall *Firewall
	// Names are the names of all links of the host, sorted. Observed only, for
	// messages; never compared.
	Names []string
	// Hardware is what the wanted physical links are looked for among. Observed
	// only, and only where one is not found by its name alone.
	Hardware []Hardware
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
	// of global scope and those that the spec names, point-to-point ones left
	// out.
	Addresses []Address
	// MAC is the hardware address, "02:00:00:00:00:01"; wanted: "" leaves it.
	MAC string
	// AltNames are the alternative names, sorted. Wanted ones are added; others
	// stay, for nobody can tell whose they are.
	AltNames []string
	// Parent is the link that this one lies upon, "" for none. Of a VLAN, a
	// macvlan or a VXLAN only.
	Parent string
	// Settings are those of the link's kind, in the order of [kindAttributes].
	// Wanted: those that the spec sets. Observed: all that the kernel tells.
	Settings []Setting
	// Port are the settings that the link has as a port of a bridge, and VLANs
	// those that it lets through; nil where they are not managed, or not read.
	Port  []Setting
	VLANs *VLANs
	// Placed tells that nodeagent made the link a port of its master, so that it
	// takes it out again once no spec names it ([portGroup]).
	Placed bool
	// Match finds a physical link that has another name. Wanted only, until the
	// wanted state is resolved.
	Match hosts.LinkMatch
	// Lost says why no link of this host is the wanted one. Resolved only.
	Lost string
	// Adopt takes over a link that somebody else made. Wanted only.
	Adopt bool
	// Alias is the link's alias (ifalias). Observed for messages; wanted only on
	// the way back of a link that was taken over.
	Alias string
	// Owned tells that nodeagent made the link (by its alias).
	Owned bool
	// Marked tells that the alias is set. A link of ours without it was left
	// half made and is known by the group that it was created in.
	Marked bool
	// Exact tells that the link is wanted as it once was ([Back]): without a
	// master none, whoever set it, and down where it is not Up. Wanted only.
	Exact bool
	// Driver is what the kernel calls the kind ("dummy", "bond", "" for most
	// hardware). Observed only, for messages.
	Driver string
}

// Setting is one setting of a link, as plans print it: {"stp", "on"},
// {"forward_delay", "4s"}, {"mode", "802.3ad"}.
type Setting struct{ Name, Value string }

// VLANs are the VLANs of a port of a bridge. Wanted with a PVID of 0 it is the
// bridge's default one, if it has any; observed, or on the way back, it is none.
type VLANs struct {
	PVID             int   // of untagged frames that come in
	Tagged, Untagged []int // that go out with and without a tag, sorted
}

// Hardware is one link that a physical link of a spec may be.
type Hardware struct {
	Name string
	// MAC is the permanent address, or where the link has none, as in a
	// container, the present one.
	MAC      string
	Path     string // on its bus: "0000:03:00.0"; "" for none
	AltNames []string
}

// Address is one address of a link.
type Address struct {
	Prefix netip.Prefix
	// Scope is "global", "link", "host" or "site"; wanted: "" leaves the choice
	// to the kernel. Of IPv6 addresses it follows from the address.
	Scope string
	// NoDAD tells that duplicate address detection is left out (IPv6).
	NoDAD bool
	// Valid and Preferred are the lifetimes that are left, in whole seconds; 0 is
	// for ever. Wanted: those that the address is given when it is added.
	Valid, Preferred time.Duration
	// Deprecated tells that the preferred lifetime is over.
	Deprecated bool
	// Owned tells that it is nodeagent's to delete: it carries our address
	// protocol ([AddressProtocol]), or it lies on a link of ours and carries
	// nobody else's. A wanted address that somebody else added is left as it
	// is, and stays when the spec drops it.
	Owned bool
}

// op is one kernel edit: the Payload of every Change of this package.
type op interface {
	apply(ctx context.Context, sys *System) error
}
