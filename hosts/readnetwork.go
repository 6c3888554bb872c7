package hosts

import (
	"net/netip"
	"slices"
	"time"
)

func (d *draft) readNetwork() {
	links := d.tree.get("network.link")
	for _, name := range links.names() {
		d.spec.Network.Links = append(d.spec.Network.Links, readLink(name, links.table[name]))
	}
	for _, n := range d.items("network.route") {
		d.spec.Network.Routes = append(d.spec.Network.Routes, readRoute(n))
	}
	for _, n := range d.items("network.rule") {
		d.spec.Network.Rules = append(d.spec.Network.Rules, readRules(n)...)
	}
	d.readWireGuard()
	d.readFloating()
	d.spec.Network.Probes = Probes{
		Names:   unique(values[string](d.tree.get("network.probes.names"))),
		Connect: unique(values[string](d.tree.get("network.probes.connect"))),
		Within:  value[time.Duration](d, "network.probes.within"),
	}
}

// readFloating reads the floating addresses that name this host.
func (d *draft) readFloating() {
	floating := d.tree.get("network.floating")
	for _, name := range floating.names() {
		n := floating.table[name]
		f := Floating{
			Name:      name,
			Address:   parsed[netip.Prefix](n.get("address")),
			Interface: parsed[string](n.get("interface")),
			Hosts:     values[string](n.get("hosts")),
			TTL:       parsed[time.Duration](n.get("ttl")),
		}
		if slices.Contains(f.Hosts, d.spec.Name) {
			d.spec.Network.Floating = append(d.spec.Network.Floating, f)
		}
	}
}

// readNames leaves the entries of /etc/hosts out: they need the other hosts,
// see derive.go.
func (d *draft) readNames() {
	if value[bool](d, "network.hostname") {
		d.spec.Names.Hostname = d.spec.Name
	}
	d.spec.Names.Servers = uniqueAddrs(values[netip.Addr](d.tree.get("network.dns.servers")))
	d.spec.Names.Search = unique(values[string](d.tree.get("network.dns.search")))
	d.spec.Names.Options = unique(values[string](d.tree.get("network.dns.options")))
}

// uniqueAddrs removes repetitions and keeps the order.
func uniqueAddrs(addrs []netip.Addr) []netip.Addr {
	var once []netip.Addr
	for _, a := range addrs {
		if !slices.Contains(once, a) {
			once = append(once, a)
		}
	}
	return once
}

// items are the tables of a list.
func (d *draft) items(path string) []*node {
	if n := d.tree.get(path); n != nil {
		return n.list
	}
	return nil
}

// optional returns a value that may be left out, nil where it is.
func optional[T any](n *node) *T {
	if n == nil || n.bad || n.parsed == nil {
		return nil
	}
	v := parsed[T](n)
	return &v
}

func readLink(name string, n *node) Link {
	return Link{
		Name:      name,
		Kind:      LinkKind(parsed[string](n.get("kind"))),
		Match:     LinkMatch{MAC: parsed[string](n.get("match_mac")), Path: parsed[string](n.get("match_path"))},
		Adopt:     parsed[bool](n.get("adopt")),
		Down:      n.get("up") != nil && !parsed[bool](n.get("up")),
		MTU:       parsed[int](n.get("mtu")),
		MAC:       parsed[string](n.get("mac")),
		AltNames:  sortedWords(values[string](n.get("alt_names"))),
		Master:    parsed[string](n.get("master")),
		Parent:    parsed[string](n.get("parent")),
		Peer:      parsed[string](n.get("peer")),
		Addresses: readAddresses(n),
		Bridge:    readBridge(n.get("bridge")),
		Bond:      readBond(n.get("bond")),
		VLAN:      readVLAN(n.get("vlan")),
		VXLAN:     readVXLAN(n.get("vxlan")),
		Macvlan:   readMacvlan(n.get("macvlan")),
		VRF:       readVRF(n.get("vrf")),
		Port:      readPort(n.get("port")),
	}
}

// readAddresses reads both ways of writing addresses, the plain ones first.
func readAddresses(n *node) []Address {
	addresses := Plain(values[netip.Prefix](n.get("addresses"))...)
	list := n.get("address")
	if list == nil {
		return addresses
	}
	for _, item := range list.list {
		a := Address{
			Prefix:     parsed[netip.Prefix](item.get("address")),
			Scope:      parsed[string](item.get("scope")),
			NoDAD:      item.get("dad") != nil && !parsed[bool](item.get("dad")),
			Preferred:  parsed[time.Duration](item.get("preferred_lifetime")),
			Valid:      parsed[time.Duration](item.get("valid_lifetime")),
			Deprecated: parsed[bool](item.get("deprecated")),
		}
		if a.Prefix.IsValid() {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

func readBridge(n *node) *Bridge {
	if n == nil {
		return nil
	}
	return &Bridge{
		VLANFiltering:     optional[bool](n.get("vlan_filtering")),
		DefaultPVID:       optional[int](n.get("default_pvid")),
		STP:               optional[bool](n.get("stp")),
		Priority:          optional[int](n.get("priority")),
		ForwardDelay:      optional[time.Duration](n.get("forward_delay")),
		HelloTime:         optional[time.Duration](n.get("hello_time")),
		MaxAge:            optional[time.Duration](n.get("max_age")),
		Ageing:            optional[time.Duration](n.get("ageing_time")),
		MulticastSnooping: optional[bool](n.get("multicast_snooping")),
	}
}

func readBond(n *node) *Bond {
	if n == nil {
		return nil
	}
	return &Bond{
		Mode:            parsed[string](n.get("mode")),
		MIIMon:          parsed[time.Duration](n.get("miimon")),
		UpDelay:         parsed[time.Duration](n.get("updelay")),
		DownDelay:       parsed[time.Duration](n.get("downdelay")),
		LACPRate:        parsed[string](n.get("lacp_rate")),
		XmitHashPolicy:  parsed[string](n.get("xmit_hash_policy")),
		AdSelect:        parsed[string](n.get("ad_select")),
		MinLinks:        parsed[int](n.get("min_links")),
		Primary:         parsed[string](n.get("primary")),
		PrimaryReselect: parsed[string](n.get("primary_reselect")),
		FailOverMAC:     parsed[string](n.get("fail_over_mac")),
		ARPInterval:     parsed[time.Duration](n.get("arp_interval")),
		ARPTargets:      values[netip.Addr](n.get("arp_targets")),
	}
}

func readVLAN(n *node) *VLAN {
	if n == nil {
		return nil
	}
	return &VLAN{ID: parsed[int](n.get("id")), Protocol: parsed[string](n.get("protocol"))}
}

func readVXLAN(n *node) *VXLAN {
	if n == nil {
		return nil
	}
	return &VXLAN{
		ID:       parsed[int](n.get("id")),
		Port:     parsed[int](n.get("port")),
		Local:    parsed[netip.Addr](n.get("local")),
		Remote:   parsed[netip.Addr](n.get("remote")),
		Learning: optional[bool](n.get("learning")),
		TTL:      parsed[int](n.get("ttl")),
	}
}

func readMacvlan(n *node) *Macvlan {
	if n == nil {
		return nil
	}
	return &Macvlan{Mode: parsed[string](n.get("mode"))}
}

func readVRF(n *node) *VRF {
	if n == nil {
		return nil
	}
	return &VRF{Table: parsed[int](n.get("table"))}
}

func readPort(n *node) *BridgePort {
	if n == nil {
		return nil
	}
	return &BridgePort{
		PVID:     parsed[int](n.get("pvid")),
		Tagged:   sortedInts(values[int](n.get("tagged"))),
		Untagged: sortedInts(values[int](n.get("untagged"))),
		Cost:     optional[int](n.get("cost")),
		Priority: optional[int](n.get("priority")),
		Isolated: optional[bool](n.get("isolated")),
		Hairpin:  optional[bool](n.get("hairpin")),
		Learning: optional[bool](n.get("learning")),
	}
}

func sortedInts(ns []int) []int {
	slices.Sort(ns)
	return slices.Compact(ns)
}

func sortedWords(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

func (d *draft) readWireGuard() {
	if d.tree.get("network.wireguard") == nil || d.tree.get("wireguard") == nil {
		return
	}
	d.spec.Network.WireGuard = &WireGuard{
		Interface: value[string](d, "network.wireguard.interface"),
		Port:      value[int](d, "network.wireguard.port"),
		MTU:       value[int](d, "network.wireguard.mtu"),
		Keepalive: value[time.Duration](d, "network.wireguard.keepalive"),
		PublicKey: value[string](d, "wireguard.public_key"),

		PresharedKeys: value[string](d, "network.wireguard.preshared_keys"),
	}
	clients := d.tree.get("wireguard.client")
	for _, name := range clients.names() {
		n := clients.table[name]
		d.spec.Network.WireGuard.Clients = append(d.spec.Network.WireGuard.Clients, WireGuardClient{
			Name:      name,
			PublicKey: parsed[string](n.get("public_key")),
			Addresses: sortedPrefixes(values[netip.Prefix](n.get("addresses"))),
		})
	}
	address, meshRange := value[netip.Addr](d, "wireguard.address"), value[netip.Prefix](d, "network.wireguard.range")
	if address.IsValid() && meshRange.IsValid() {
		d.spec.Network.WireGuard.Address = netip.PrefixFrom(address, meshRange.Bits())
	}
}
