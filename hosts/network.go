package hosts

import (
	"net/netip"
	"time"
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
