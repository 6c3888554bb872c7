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

// Network is what the network domain sets: only what is written here is
// managed, everything else on the host is left alone.
type Network struct {
	Links  []Link
	Routes []Route
	Rules  []Rule
	// WireGuard is nil where the host has no WireGuard device.
	WireGuard *WireGuard
	// Floating are the addresses of which this host may be the holder, sorted by
	// name.
	Floating []Floating
	// Probes are what must still answer after the network was changed.
	Probes Probes
}

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

// RouteType is what a route does with a packet, rtnetlink(7)'s word for it.
type RouteType string

// The types of routes.
const (
	RouteUnicast     RouteType = "unicast"
	RouteBlackhole   RouteType = "blackhole"
	RouteUnreachable RouteType = "unreachable"
	RouteProhibit    RouteType = "prohibit"
)

// MainTable is the routing table of routes that name none.
const MainTable = 254

// Route is one route.
type Route struct {
	// Destination is masked; 0.0.0.0/0 and ::/0 for "default".
	Destination netip.Prefix
	// Type is unicast where empty. Others have no gateway and no device.
	Type RouteType
	// Table is the routing table, 0 for the main one.
	Table int
	// Via is the gateway, invalid where the destination is on the link. The
	// gateway of an IPv4 route may be an IPv6 address.
	Via netip.Addr
	// Device is the link's name; empty lets the kernel choose by the gateway.
	Device string
	// OnLink takes the gateway to be on the link though no address says so.
	OnLink bool
	// Nexthops are two or more ways that share the traffic; Via, Device and
	// OnLink are then empty.
	Nexthops []Nexthop
	// Metric is the priority; 0 leaves the kernel's default.
	Metric int
	// Source is the preferred source address, invalid where not set.
	Source netip.Addr
	// MTU of the way in bytes; 0 leaves the link's.
	MTU int
	// Adopt takes over a route to the same destination, table and metric that
	// somebody else made.
	Adopt bool
}

// Nexthop is one of several ways of a route.
type Nexthop struct {
	Via    netip.Addr
	Device string
	OnLink bool
	// Weight is the share of the traffic, 1 to 256.
	Weight int
}

// Rule is a policy rule: it says which routing table a packet is looked up in.
type Rule struct {
	// Priority is unique among the rules of the spec's family, 1 to 32765.
	Priority int
	// IPv6 is the family of the rule; rules with neither From nor To are written
	// once a family.
	IPv6     bool
	From, To netip.Prefix // invalid for any
	// Inbound and Outbound are link names, "" for any.
	Inbound, Outbound string
	// Mark and Mask match the packet's mark where Mask is not 0.
	Mark, Mask uint32
	// Protocol is "tcp", "udp", "icmp" or empty; the ports are 0 for any.
	Protocol         string
	SourcePort, Port uint16
	// Table is the table that is looked up, 0 with another Action.
	Table int
	// Action is "lookup" (the default), "blackhole", "unreachable" or "prohibit".
	Action string
	// SuppressPrefixLength ignores routes of at most this prefix length; nil for
	// none.
	SuppressPrefixLength *int
	Adopt                bool
}

// WireGuard is the host's own WireGuard device; its peers are derived from
// Spec.Peers, and Clients. The private key is made on the host and is never in
// a fleet.
type WireGuard struct {
	Interface string
	Address   netip.Prefix // the host's address with the range's prefix length
	Port      int
	MTU       int
	PublicKey string // base64, 32 bytes; empty until the host has made its key
	Keepalive time.Duration
	// Clients are the machines without nodeagent, such as administrators'
	// laptops, that this host (a hub) carries, sorted by name.
	Clients []WireGuardClient
	// PresharedKeys is a folder on the host with a file for each peer that has a
	// preshared key: NAME.psk, 32 bytes in base64. Empty where there are none.
	PresharedKeys string
}

// WireGuardPeer is a peer's part of the mesh.
type WireGuardPeer struct {
	Address   netip.Addr
	PublicKey string
	Endpoint  string // host:port, where the peer is reached from outside
	// Clients are the machines that are reached through the peer.
	Clients []WireGuardClient
}

// WireGuardClient is a machine without nodeagent that a hub carries as a peer.
// The other hosts of the mesh reach it through the hub.
type WireGuardClient struct {
	Name      string
	PublicKey string
	// Addresses within the mesh's range, or ranges behind the client.
	Addresses []netip.Prefix
}

// Firewall is the host's packet filter. Established connections, loopback, and
// ICMP as needed for path MTU and neighbour discovery are always accepted;
// everything else inbound that no Allow names is dropped.
type Firewall struct {
	// Enabled is false where the fleet has no [firewall] table: nodeagent then
	// leaves the host's packet filter alone.
	Enabled bool
	Allow   []Allow
	// Forward is nil where forwarded packets are left alone, which they are
	// unless the fleet has [firewall.forward].
	Forward *Forward
	// Masquerade is by whose address packets leave the host; sorted by name. It
	// does not depend on Enabled.
	Masquerade []Masquerade
}

// Allow accepts new inbound connections.
type Allow struct {
	// Name is what the rule is for, for people: "ssh".
	Name     string
	Protocol string // "tcp" or "udp"
	Ports    []uint16
	// From are source ranges; empty means from anywhere. "fleet" in a file has
	// been replaced by the other hosts' addresses, "pods" by the pod range.
	From []netip.Prefix
	// Interfaces restricts the rule to inbound interfaces; empty means any. The
	// zones of a file have been replaced by their interfaces.
	Interfaces []string
	// Limit is nil where any number of connections is accepted.
	Limit *Limit
}

// Limit is how many new connections are accepted in a time.
type Limit struct {
	Count int
	Per   time.Duration // a second, a minute, an hour or a day
	Burst int           // how many may come at once beyond it
	// BySource counts each source address by itself.
	BySource bool
}

// Forward is the policy for packets that the host forwards. Replies, and pods'
// traffic as Kubernetes needs it, are always accepted.
type Forward struct {
	Allow []ForwardAllow
}

// ForwardAllow accepts new connections through the host.
type ForwardAllow struct {
	Name     string
	Protocol string   // "tcp", "udp" or "" for any
	Ports    []uint16 // of the destination; empty for any
	From, To []netip.Prefix
	// Inbound and Outbound are link names; empty for any.
	Inbound, Outbound []string
}

// Masquerade gives packets that leave by a link the link's own address.
type Masquerade struct {
	Name string
	From []netip.Prefix
	// Except are destinations that keep the true source.
	Except []netip.Prefix
	// Outbound are link names; empty for any.
	Outbound []string
}

// Floating is an address that one of several hosts holds at a time, through a
// lease in etcd.
type Floating struct {
	Name      string
	Address   netip.Prefix
	Interface string
	// Hosts are the names of the hosts that may hold it, first choice first.
	Hosts []string
	// TTL is how long the lease outlives its holder.
	TTL time.Duration
}

// Probes are what is asked after a change of the network, whether the host can
// still be worked with. Each is judged against how it was before.
type Probes struct {
	// Names are some of "gateway", "wireguard", "vault", "etcd" and "api".
	Names []string
	// Connect are further TCP targets, host:port.
	Connect []string
	// Within is how long they may take to succeed again.
	Within time.Duration
}

// Names is the host's names and resolvers. Zero values leave the host's own.
type Names struct {
	// Hostname is set as the host's static and running name.
	Hostname string
	// Servers, Search and Options are those of resolv.conf(5); managed where
	// Servers are named.
	Servers []netip.Addr
	Search  []string
	Options []string
	// Hosts are the entries of /etc/hosts that nodeagent keeps, sorted by
	// address: the fleet's where the spec asks for them, and those written. Nil
	// leaves the file alone.
	Hosts []HostsEntry
}

// HostsEntry is one line of /etc/hosts.
type HostsEntry struct {
	Address netip.Addr
	Names   []string
}

// Drift is what is done about a host that is no longer as its spec says.
type Drift string

// What `run` does about drift.
const (
	DriftRepair Drift = "repair"
	DriftReport Drift = "report"
)
