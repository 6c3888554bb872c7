package hosts

import (
	"net/netip"
	"slices"
	"time"
)

// modesOf are the modes of bonds that heed a setting, where not all do
// (drivers/net/bonding: bond_options.c, and bond_mode_uses_xmit_hash and
// bond_mode_uses_primary of bonding.h).
var modesOf = map[string][]string{
	"lacp_rate":        {"802.3ad"},
	"ad_select":        {"802.3ad"},
	"min_links":        {"802.3ad"},
	"xmit_hash_policy": {"802.3ad", "balance-xor", "balance-tlb", "balance-alb"},
	"primary":          {"active-backup", "balance-tlb", "balance-alb"},
	"primary_reselect": {"active-backup", "balance-tlb", "balance-alb"},
	"fail_over_mac":    {"active-backup"},
	"arp_interval":     {"active-backup", "balance-rr", "balance-xor", "broadcast"},
	"arp_targets":      {"active-backup", "balance-rr", "balance-xor", "broadcast"},
}

// maxARPTargets is the kernel's (BOND_MAX_ARP_TARGETS).
const maxARPTargets = 16

func (d *draft) checkBond(n *node, l Link) {
	if n == nil || n.broken() || n.get("mode") == nil {
		return
	}
	for _, key := range n.names() {
		if modes := modesOf[key]; modes != nil && !slices.Contains(modes, l.Bond.Mode) {
			d.at(n.get(key), "has no effect in the mode %q (%s): it is for %s", l.Bond.Mode, n.get("mode").place(), list(modes))
			return
		}
	}
	if failOver := l.Bond.FailOverMAC; l.MAC != "" && (failOver == "active" || failOver == "follow") {
		mac := d.tree.get("network.link").table[l.Name].get("mac")
		d.at(n.get("fail_over_mac"), "gives the bond the address of a port, so that it cannot keep the mac at %s", mac.place())
	}
	d.checkMonitoring(n, l.Bond)
	if port := d.link(l.Bond.Primary); l.Bond.Primary != "" && (port == nil || port.Master != l.Name) {
		d.at(n.get("primary"), "%s is not a port of this bond: write master = %s at [network.link.%s]", quote(l.Bond.Primary), quote(l.Name), l.Bond.Primary)
	}
}

// checkMonitoring wants one of the two ways in which a bond notices that a port
// is dead.
func (d *draft) checkMonitoring(n *node, b *Bond) {
	interval, targets, mii := n.get("arp_interval"), n.get("arp_targets"), n.get("miimon")
	asks := b.ARPInterval > 0
	switch {
	case asks && b.MIIMon > 0:
		d.at(interval, "a bond is watched by ARP or by miimon (%s), not by both", mii.place())
	case asks && len(b.ARPTargets) == 0:
		d.missing(n.file, n, n.path+".arp_targets", "is missing: arp_interval needs somebody to ask")
	case targets != nil && !asks:
		d.at(targets, "has no effect without arp_interval")
	case len(b.ARPTargets) > maxARPTargets:
		d.at(targets, "are %d, and the kernel takes at most %d", len(b.ARPTargets), maxARPTargets)
	case slices.ContainsFunc(b.ARPTargets, netip.Addr.Is6):
		d.at(targets, "ARP is of IPv4, and one of these is an IPv6 address")
	case asks:
		d.checkDelays(n, 0)
	case b.MIIMon == 0 && b.ARPInterval == 0:
		d.warn(d.file, n, n.path, "nothing watches the ports of this bond: a dead one would still be used")
		d.checkDelays(n, 0)
	default:
		d.checkDelays(n, b.MIIMon)
	}
}

// checkDelays refuses delays that the kernel rounds: the host would never be as
// its spec.
func (d *draft) checkDelays(n *node, mii time.Duration) {
	for _, key := range []string{"updelay", "downdelay"} {
		at := n.get(key)
		switch {
		case at == nil || durationOf(at) == 0:
		case mii == 0:
			d.at(at, "has no effect without miimon")
		case durationOf(at)%mii != 0:
			d.at(at, "%s is not a multiple of miimon, %s", durationOf(at), mii)
		}
	}
}
