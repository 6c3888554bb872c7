package hosts

import (
	"math"
	"time"
)

// Limits of routing tables: 0 is no table, 255 is the kernel's own (rtnetlink(7),
// RT_TABLE_LOCAL).
const (
	maxTable   = math.MaxUint32
	localTable = 255
)

// maxVLAN is the highest VLAN: 4095 is reserved (IEEE 802.1Q, 9.6).
const maxVLAN = 4094

func networkSchema() *rule {
	return table(keys{
		"wireguard": perCluster(table(keys{
			"interface": one(text("link name", parseLinkName)),
			"range":     one(text("range", parseClusterRange)),
			"port":      one(integer("port", 1, 65535)),
			"keepalive": one(text("duration", parseKeepalive)),
			"mtu":       one(integer("integer", minIPv6MTU, maxMTU)),

			"preshared_keys": one(text("path", parseFolder)),
		})),
		"link":  named(linkNames, linkSchema()),
		"route": listOf(routeSchema()),
		"rule":  listOf(ruleSchema()),
		"dns": table(keys{
			"servers": listOf(one(text("address", parseAddr))),
			"search":  listOf(one(text("DNS name", parseDomain))),
			"options": listOf(one(text("resolver option", parseResolverOption))),
		}),
		"hostname":   one(boolean),
		"hosts_file": one(boolean),
		"hosts":      named(addresses, listOf(one(text("DNS name", parseDomain)))),
		"floating": perCluster(named(labels, table(keys{
			"address":   one(text("address with prefix length", parseFloatingAddress)),
			"interface": one(text("link name", parseLinkName)),
			"hosts":     listOf(one(text("label", parseLabel))),
			"ttl":       one(text("duration", parseLeaseTTL)),
		}))),
		"probes": table(keys{
			"names":   listOf(one(word(probeNames...))),
			"connect": listOf(one(text("host:port", parseHostPort))),
			"within":  one(text("duration", parseProbeTime)),
		}),
	})
}

func linkSchema() *rule {
	return table(keys{
		"kind": one(word(string(LinkPhysical), string(LinkBridge), string(LinkBond), string(LinkVLAN), string(LinkVXLAN),
			string(LinkVeth), string(LinkDummy), string(LinkMacvlan), string(LinkVRF))),
		"match_mac":  one(text("MAC", parseMAC)),
		"match_path": one(text("place on the bus", parseBusPath)),
		"adopt":      one(boolean),
		"up":         one(boolean),
		"mtu":        one(integer("integer", minLinkMTU, maxMTU)),
		"mac":        one(text("MAC", parseMAC)),
		"alt_names":  listOf(one(text("alternative name", parseAltName))),
		"master":     one(text("link name", parseLinkName)),
		"parent":     one(text("link name", parseLinkName)),
		"peer":       one(text("link name", parseLinkName)),
		"addresses":  listOf(one(text("address with prefix length", parseLinkAddress))),
		"address": listOf(table(keys{
			"address":            one(text("address with prefix length", parseLinkAddress)),
			"scope":              one(word("global", "link", "host")),
			"dad":                one(boolean),
			"preferred_lifetime": one(text("duration", parseAddressLifetime)),
			"valid_lifetime":     one(text("duration", parseAddressLifetime)),
			"deprecated":         one(boolean),
		})),
		"bridge":  bridgeSchema(),
		"bond":    bondSchema(),
		"vlan":    table(keys{"id": one(integer("VLAN", 1, maxVLAN)), "protocol": one(word("802.1q", "802.1ad"))}),
		"vxlan":   vxlanSchema(),
		"macvlan": table(keys{"mode": one(word("bridge", "private", "vepa", "passthru"))}),
		"vrf":     table(keys{"table": one(integer("routing table", 1, maxTable))}),
		"port":    portSchema(),
	})
}

// bridgeSchema has the kernel's limits of net/bridge/br_private.h; hello_time
// and max_age are held to them even while STP is off.
func bridgeSchema() *rule {
	return table(keys{
		"vlan_filtering":     one(boolean),
		"default_pvid":       one(integer("integer", 0, maxVLAN)),
		"stp":                one(boolean),
		"priority":           one(integer("integer", 0, math.MaxUint16)),
		"forward_delay":      one(hundredths(0, 30*time.Second)),
		"hello_time":         one(hundredths(time.Second, 10*time.Second)),
		"max_age":            one(hundredths(6*time.Second, 40*time.Second)),
		"ageing_time":        one(hundredths(0, 1000000*time.Second)),
		"multicast_snooping": one(boolean),
	})
}

func bondSchema() *rule {
	return table(keys{
		"mode":             one(word(bondModes...)),
		"miimon":           one(milliseconds()),
		"updelay":          one(milliseconds()),
		"downdelay":        one(milliseconds()),
		"lacp_rate":        one(word("slow", "fast")),
		"xmit_hash_policy": one(word("layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4", "vlan+srcmac")),
		"ad_select":        one(word("stable", "bandwidth", "count")),
		"min_links":        one(integer("integer", 0, math.MaxUint16)),
		"primary":          one(text("link name", parseLinkName)),
		"primary_reselect": one(word("always", "better", "failure")),
		"fail_over_mac":    one(word("none", "active", "follow")),
		"arp_interval":     one(milliseconds()),
		"arp_targets":      listOf(one(text("address", parseHostAddr))),
	})
}

func vxlanSchema() *rule {
	return table(keys{
		"id":       one(integer("integer", 0, 1<<24-1)),
		"port":     one(integer("port", 1, 65535)),
		"local":    one(text("address", parseAddr)),
		"remote":   one(text("address or multicast group", parseAddrOrGroup)),
		"learning": one(boolean),
		"ttl":      one(integer("integer", 1, 255)),
	})
}

// portSchema has the kernel's limits of net/bridge/br_stp_if.c.
func portSchema() *rule {
	vlan := integer("VLAN", 1, maxVLAN)
	return table(keys{
		"pvid":     one(vlan),
		"tagged":   listOf(one(vlan)),
		"untagged": listOf(one(vlan)),
		"cost":     one(integer("integer", 1, math.MaxUint16)),
		"priority": one(integer("integer", 0, 63)),
		"isolated": one(boolean),
		"hairpin":  one(boolean),
		"learning": one(boolean),
	})
}

func routeSchema() *rule {
	return table(keys{
		"destination": one(text("range or \"default\"", parseDestination)),
		"type":        one(word(string(RouteUnicast), string(RouteBlackhole), string(RouteUnreachable), string(RouteProhibit))),
		"table":       one(integer("routing table", 1, maxTable)),
		"via":         one(text("address", parseAddr)),
		"device":      one(text("link name", parseLinkName)),
		"onlink":      one(boolean),
		"nexthops": listOf(table(keys{
			"via":    one(text("address", parseAddr)),
			"device": one(text("link name", parseLinkName)),
			"onlink": one(boolean),
			"weight": one(integer("integer", 1, 256)),
		})),
		"metric": one(integer("integer", 1, math.MaxUint32)),
		"source": one(text("address", parseAddr)),
		"mtu":    one(integer("integer", minLinkMTU, maxMTU)),
		"adopt":  one(boolean),
	})
}

// ruleSchema leaves the priorities 0, 32766 and 32767 to the kernel's own rules.
func ruleSchema() *rule {
	return table(keys{
		"priority":              one(integer("integer", 1, 32765)),
		"family":                one(word(familyIPv4, familyIPv6)),
		"from":                  one(text("range", parseRange)),
		"to":                    one(text("range", parseRange)),
		"iif":                   one(text("link name", parseLinkName)),
		"oif":                   one(text("link name", parseLinkName)),
		"fwmark":                one(integer("integer", 0, math.MaxUint32)),
		"fwmask":                one(integer("integer", 1, math.MaxUint32)),
		"protocol":              one(word("tcp", "udp", "icmp")),
		"source_port":           one(integer("port", 1, 65535)),
		"port":                  one(integer("port", 1, 65535)),
		"table":                 one(integer("routing table", 1, maxTable)),
		"action":                one(word(actionLookup, string(RouteBlackhole), string(RouteUnreachable), string(RouteProhibit))),
		"suppress_prefixlength": one(integer("integer", 0, 128)),
		"adopt":                 one(boolean),
	})
}
