package hosts

import (
	"net/netip"
	"time"
)

// LinkKind is the kind of a network link, the kernel's own word for it.
type LinkKind string

// The kinds of links. A physical link is never created or deleted.
const (
	LinkPhysical LinkKind = "physical"
	LinkBridge   LinkKind = "bridge"
	LinkBond     LinkKind = "bond"
	LinkVLAN     LinkKind = "vlan"
	LinkVXLAN    LinkKind = "vxlan"
	LinkVeth     LinkKind = "veth"
	LinkDummy    LinkKind = "dummy"
	LinkMacvlan  LinkKind = "macvlan"
	LinkVRF      LinkKind = "vrf"
)

// Link is one network link.
type Link struct {
	Name string
	Kind LinkKind
	// Match finds a physical link that has another name on this host; the zero
	// value finds it by Name. Name then becomes one of its alternative names,
	// and stands for the link everywhere in the spec.
	Match LinkMatch
	// Adopt takes over a link of this name that somebody else made. Without it
	// such a link is left alone and the plan says so.
	Adopt bool
	// Down leaves the link down; links are up otherwise.
	Down bool
	// MTU in bytes; 0 leaves it as it is.
	MTU int
	// MAC is the hardware address, "02:00:00:00:00:01"; empty leaves it.
	MAC string
	// AltNames are further names of the link, sorted.
	AltNames []string
	// Master is the bridge, bond or VRF that the link is a port of, or empty.
	Master string
	// Parent is the link that a VLAN, macvlan or VXLAN lies upon; required for
	// the first two.
	Parent string
	// Peer is the name of the other end of a veth.
	Peer string
	// Addresses with their prefix lengths, in the order written.
	Addresses []Address

	// The settings of the link's kind: nil, or all default, for other kinds.
	Bridge  *Bridge
	Bond    *Bond
	VLAN    *VLAN
	VXLAN   *VXLAN
	Macvlan *Macvlan
	VRF     *VRF
	// Port is set for a port of a bridge that has settings of its own.
	Port *BridgePort
}

// LinkMatch names a physical link by what it is rather than by what it is
// called. Of the two fields at most one is set.
type LinkMatch struct {
	// MAC is the permanent hardware address.
	MAC string
	// Path is the place on its bus, as the last part of the link
	// /sys/class/net/NAME/device has it: "0000:03:00.0".
	Path string
}

// Address is one address of a link.
type Address struct {
	Prefix netip.Prefix
	// Scope is "global", "link" or "host"; empty lets the kernel choose.
	Scope string
	// NoDAD leaves duplicate address detection out (IPv6 only).
	NoDAD bool
	// Preferred and Valid are lifetimes; zero means for ever. Deprecated has a
	// preferred lifetime of nothing: the address answers but is no source.
	Preferred, Valid time.Duration
	Deprecated       bool
}

// Plain returns addresses that have nothing but a prefix.
func Plain(prefixes ...netip.Prefix) []Address {
	var addresses []Address
	for _, p := range prefixes {
		addresses = append(addresses, Address{Prefix: p})
	}
	return addresses
}

// Bridge is the settings of a bridge. A nil pointer leaves the kernel's own.
type Bridge struct {
	VLANFiltering *bool
	// DefaultPVID is the VLAN of untagged frames; 0 for none.
	DefaultPVID *int
	STP         *bool
	Priority    *int // of STP, 0 to 65535
	// Times of STP and of the forwarding table, in hundredths of a second at
	// the finest.
	ForwardDelay, HelloTime, MaxAge, Ageing *time.Duration
	MulticastSnooping                       *bool
}

// BridgePort is the settings of one port of a bridge.
type BridgePort struct {
	// PVID is the VLAN of untagged frames that come in, 0 for none set here;
	// Tagged and Untagged are the VLANs that go out with and without a tag,
	// sorted. They are managed where any of the three is set.
	PVID             int
	Tagged, Untagged []int
	Cost, Priority   *int
	Isolated         *bool
	Hairpin          *bool
	Learning         *bool
}

// Bond is the settings of a bond. Zero values leave the kernel's own.
type Bond struct {
	// Mode is the kernel's word: "802.3ad", "active-backup", "balance-rr",
	// "balance-xor", "broadcast", "balance-tlb", "balance-alb".
	Mode string
	// MIIMon, UpDelay and DownDelay are in whole milliseconds.
	MIIMon, UpDelay, DownDelay time.Duration
	LACPRate                   string // "slow" or "fast"; 802.3ad only
	XmitHashPolicy             string // "layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4", "vlan+srcmac"
	AdSelect                   string // "stable", "bandwidth", "count"
	MinLinks                   int
	Primary                    string // a port; active-backup, balance-tlb, balance-alb
	PrimaryReselect            string // "always", "better", "failure"
	FailOverMAC                string // "none", "active", "follow"
	ARPInterval                time.Duration
	ARPTargets                 []netip.Addr
}

// VLAN is one VLAN of its parent.
type VLAN struct {
	ID       int    // 1 to 4094
	Protocol string // "802.1q" or "802.1ad"
}

// VXLAN is the settings of a VXLAN device.
type VXLAN struct {
	ID       int // 0 to 2^24-1
	Port     int // UDP, 4789 by default
	Local    netip.Addr
	Remote   netip.Addr // one other end, or a multicast group
	Learning *bool
	TTL      int
}

// Macvlan is the settings of a macvlan device.
type Macvlan struct {
	Mode string // "bridge", "private", "vepa", "passthru"
}

// VRF is the settings of a VRF device.
type VRF struct {
	Table int // the routing table of its ports
}
