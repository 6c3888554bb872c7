package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"

	"github.com/nodeagent/nodeagent/hosts"
)

// form is how the kernel writes a value: its width, and what it counts in.
type form int

const (
	flag8        form = iota // "on", "off"
	flag32                   // the same; what else the kernel has there is "on"
	number8                  // "64"
	number16                 // "32768"
	number32                 // "100"
	port16                   // a UDP port, big-endian
	word8                    // one of words, by its number
	word32                   // the same
	ether16                  // one of "802.1q" and "802.1ad", big-endian
	centiseconds             // 32 bits of hundredths of a second: "15s"
	milliseconds             // 32 bits: "100ms"
	linkIndex                // 32 bits, the name of a link, "" for none
	address                  // IPv4, or IPv6 in the attribute id6; "" for none
	addressList              // nested IPv4 addresses: "192.0.2.1 192.0.2.2"
)

// moment is when the kernel takes a setting, and what that disturbs.
type moment int

const (
	live     moment = iota // at any time, and nothing notices
	cutting                // at any time; connections may break
	linkDown               // while the link is down
	portless               // while the link is down and has no ports
	fixed                  // only when the link is made
)

// attribute is one setting as the kernel has it (if_link.h).
type attribute struct {
	name  string
	id    uint16
	id6   uint16 // of addresses: the attribute of IPv6
	form  form
	words []string
	when  moment
	// refused are the modes of a bond in which the kernel refuses it.
	refused []string
}

const (
	mode8023AD       = "802.3ad"
	modeActiveBackup = "active-backup"
	modeTLB          = "balance-tlb"
	modeALB          = "balance-alb"
)

var (
	bondModes   = []string{"balance-rr", modeActiveBackup, "balance-xor", "broadcast", mode8023AD, modeTLB, modeALB}
	notAD       = []string{"balance-rr", modeActiveBackup, "balance-xor", "broadcast", modeTLB, modeALB}
	notPrimary  = []string{"balance-rr", "balance-xor", "broadcast", mode8023AD}
	notARP      = []string{mode8023AD, modeTLB, modeALB}
	macvlanMode = []string{1: "private", 2: "vepa", 4: "bridge", 8: "passthru"}
)

// kindAttributes are the settings of each kind that a spec can name, in the
// order in which they are set and printed. What may be set when, and in which
// mode of a bond, is of drivers/net/bonding/bond_options.c, net/bridge/br_netlink.c
// and drivers/net/vxlan/vxlan_core.c.
var kindAttributes = map[hosts.LinkKind][]attribute{
	hosts.LinkBridge: {
		{name: "stp", id: nl.IFLA_BR_STP_STATE, form: flag32, when: cutting},
		{name: "priority", id: nl.IFLA_BR_PRIORITY, form: number16},
		{name: "forward_delay", id: nl.IFLA_BR_FORWARD_DELAY, form: centiseconds},
		{name: "hello_time", id: nl.IFLA_BR_HELLO_TIME, form: centiseconds},
		{name: "max_age", id: nl.IFLA_BR_MAX_AGE, form: centiseconds},
		{name: "ageing", id: nl.IFLA_BR_AGEING_TIME, form: centiseconds},
		{name: "vlan_filtering", id: nl.IFLA_BR_VLAN_FILTERING, form: flag8, when: cutting},
		{name: "default_pvid", id: nl.IFLA_BR_VLAN_DEFAULT_PVID, form: number16, when: cutting},
		{name: "multicast_snooping", id: nl.IFLA_BR_MCAST_SNOOPING, form: flag8},
	},
	hosts.LinkBond: {
		{name: "mode", id: nl.IFLA_BOND_MODE, form: word8, words: bondModes, when: portless},
		{name: "miimon", id: nl.IFLA_BOND_MIIMON, form: milliseconds},
		{name: "up_delay", id: nl.IFLA_BOND_UPDELAY, form: milliseconds},
		{name: "down_delay", id: nl.IFLA_BOND_DOWNDELAY, form: milliseconds},
		{name: "arp_interval", id: nl.IFLA_BOND_ARP_INTERVAL, form: milliseconds, refused: notARP},
		{name: "arp_targets", id: nl.IFLA_BOND_ARP_IP_TARGET, form: addressList, refused: notARP},
		{name: "primary", id: nl.IFLA_BOND_PRIMARY, form: linkIndex, refused: notPrimary},
		{name: "primary_reselect", id: nl.IFLA_BOND_PRIMARY_RESELECT, form: word8, words: []string{"always", "better", "failure"}},
		{name: "fail_over_mac", id: nl.IFLA_BOND_FAIL_OVER_MAC, form: word8, words: []string{"none", "active", "follow"}, when: portless},
		{name: "xmit_hash_policy", id: nl.IFLA_BOND_XMIT_HASH_POLICY, form: word8, words: []string{"layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"}},
		{name: "min_links", id: nl.IFLA_BOND_MIN_LINKS, form: number32},
		{name: "lacp_rate", id: nl.IFLA_BOND_AD_LACP_RATE, form: word8, words: []string{"slow", "fast"}, when: linkDown, refused: notAD},
		{name: "ad_select", id: nl.IFLA_BOND_AD_SELECT, form: word8, words: []string{"stable", "bandwidth", "count"}, when: linkDown},
	},
	hosts.LinkVLAN: {
		{name: "id", id: nl.IFLA_VLAN_ID, form: number16, when: fixed},
		{name: "protocol", id: nl.IFLA_VLAN_PROTOCOL, form: ether16, when: fixed},
	},
	hosts.LinkVXLAN: {
		{name: "id", id: nl.IFLA_VXLAN_ID, form: number32, when: fixed},
		{name: "port", id: nl.IFLA_VXLAN_PORT, form: port16, when: fixed},
		{name: "local", id: nl.IFLA_VXLAN_LOCAL, id6: nl.IFLA_VXLAN_LOCAL6, form: address, when: cutting},
		{name: "remote", id: nl.IFLA_VXLAN_GROUP, id6: nl.IFLA_VXLAN_GROUP6, form: address, when: cutting},
		{name: "learning", id: nl.IFLA_VXLAN_LEARNING, form: flag8},
		{name: "ttl", id: nl.IFLA_VXLAN_TTL, form: number8},
	},
	hosts.LinkMacvlan: {{name: "mode", id: nl.IFLA_MACVLAN_MODE, form: word32, words: macvlanMode, when: cutting}},
	hosts.LinkVRF:     {{name: "table", id: nl.IFLA_VRF_TABLE, form: number32, when: fixed}},
}

// portAttributes are the settings of a port of a bridge.
var portAttributes = []attribute{
	{name: "cost", id: nl.IFLA_BRPORT_COST, form: number32},
	{name: "priority", id: nl.IFLA_BRPORT_PRIORITY, form: number16},
	{name: "isolated", id: nl.IFLA_BRPORT_ISOLATED, form: flag8, when: cutting},
	{name: "hairpin", id: nl.IFLA_BRPORT_MODE, form: flag8},
	{name: "learning", id: nl.IFLA_BRPORT_LEARNING, form: flag8},
}

func settingOf(settings []Setting, name string) (string, bool) {
	for _, s := range settings {
		if s.Name == name {
			return s.Value, true
		}
	}
	return "", false
}

// setting returns the value of a setting of the link's kind, "" for none.
func (l Link) setting(name string) string {
	value, _ := settingOf(l.Settings, name)
	return value
}

// withSetting returns settings with one of them at another value.
func withSetting(settings []Setting, name, value string) []Setting {
	changed := slices.Clone(settings)
	for i, s := range changed {
		if s.Name == name {
			changed[i].Value = value
			return changed
		}
	}
	return append(changed, Setting{name, value})
}

// settingList collects what a spec sets; zero values are left out.
type settingList []Setting

func (l *settingList) word(name, value string) {
	if value != "" {
		*l = append(*l, Setting{name, value})
	}
}

func (l *settingList) number(name string, value int) { l.word(name, strconv.Itoa(value)) }

func (l *settingList) some(name string, value int) {
	if value != 0 {
		l.number(name, value)
	}
}

func (l *settingList) optional(name string, value *int) {
	if value != nil {
		l.number(name, *value)
	}
}

func (l *settingList) flag(name string, value *bool) {
	if value != nil {
		l.word(name, flagWord(*value))
	}
}

func flagWord(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (l *settingList) time(name string, value *time.Duration) {
	if value != nil {
		l.word(name, value.String())
	}
}

func (l *settingList) span(name string, value time.Duration) {
	if value != 0 {
		l.word(name, value.String())
	}
}

func (l *settingList) address(name string, value netip.Addr) {
	word := ""
	if value.IsValid() {
		word = value.String()
	}
	*l = append(*l, Setting{name, word})
}

// wantSettings are the settings of the link's kind that the spec sets.
func wantSettings(s hosts.Link) []Setting {
	var l settingList
	switch {
	case s.Kind == hosts.LinkBridge && s.Bridge != nil:
		l.bridge(s.Bridge)
	case s.Kind == hosts.LinkBond && s.Bond != nil:
		l.bond(s.Bond)
	case s.Kind == hosts.LinkVLAN && s.VLAN != nil:
		l.number("id", s.VLAN.ID)
		l.word("protocol", strings.ToLower(s.VLAN.Protocol))
	case s.Kind == hosts.LinkVXLAN && s.VXLAN != nil:
		v := s.VXLAN
		l.number("id", v.ID)
		l.some("port", v.Port)
		l.address("local", v.Local)
		l.address("remote", v.Remote)
		l.flag("learning", v.Learning)
		l.some("ttl", v.TTL)
	case s.Kind == hosts.LinkMacvlan && s.Macvlan != nil:
		l.word("mode", s.Macvlan.Mode)
	case s.Kind == hosts.LinkVRF && s.VRF != nil:
		l.number("table", s.VRF.Table)
	}
	return l
}

// minForwardDelay is what the kernel raises a shorter delay to when STP is
// turned on (BR_MIN_FORWARD_DELAY).
const minForwardDelay = 2 * time.Second

func (l *settingList) bridge(b *hosts.Bridge) {
	l.flag("stp", b.STP)
	l.optional("priority", b.Priority)
	delay := b.ForwardDelay
	if delay != nil && b.STP != nil && *b.STP {
		longer := max(*delay, minForwardDelay)
		delay = &longer
	}
	l.time("forward_delay", delay)
	l.time("hello_time", b.HelloTime)
	l.time("max_age", b.MaxAge)
	l.time("ageing", b.Ageing)
	l.flag("vlan_filtering", b.VLANFiltering)
	l.optional("default_pvid", b.DefaultPVID)
	l.flag("multicast_snooping", b.MulticastSnooping)
}

func (l *settingList) bond(b *hosts.Bond) {
	l.word("mode", b.Mode)
	l.span("miimon", b.MIIMon)
	l.span("up_delay", b.UpDelay)
	l.span("down_delay", b.DownDelay)
	l.span("arp_interval", b.ARPInterval)
	var targets []string
	for _, t := range b.ARPTargets {
		targets = append(targets, t.String())
	}
	l.word("arp_targets", strings.Join(targets, " "))
	l.word("primary", b.Primary)
	l.word("primary_reselect", b.PrimaryReselect)
	l.word("fail_over_mac", b.FailOverMAC)
	l.word("xmit_hash_policy", b.XmitHashPolicy)
	l.some("min_links", b.MinLinks)
	l.word("lacp_rate", b.LACPRate)
	l.word("ad_select", b.AdSelect)
}

func wantPort(p *hosts.BridgePort) ([]Setting, *VLANs) {
	if p == nil {
		return nil, nil
	}
	var l settingList
	l.optional("cost", p.Cost)
	l.optional("priority", p.Priority)
	l.flag("isolated", p.Isolated)
	l.flag("hairpin", p.Hairpin)
	l.flag("learning", p.Learning)
	if p.PVID == 0 && len(p.Tagged) == 0 && len(p.Untagged) == 0 {
		return l, nil
	}
	v := VLANs{PVID: p.PVID, Tagged: slices.Clone(p.Tagged), Untagged: slices.Clone(p.Untagged)}
	return l, v.sorted()
}

// sorted brings the VLANs into the one order in which they are compared: a PVID
// that is said to go out neither way goes out untagged.
func (v VLANs) sorted() *VLANs {
	if v.PVID != 0 && !slices.Contains(v.Tagged, v.PVID) && !slices.Contains(v.Untagged, v.PVID) {
		v.Untagged = append(v.Untagged, v.PVID)
	}
	slices.Sort(v.Tagged)
	slices.Sort(v.Untagged)
	v.Tagged, v.Untagged = slices.Compact(v.Tagged), slices.Compact(v.Untagged)
	return &v
}

// String returns "pvid 10, untagged 10, tagged 20-30 40", or "none".
func (v VLANs) String() string {
	var words []string
	if v.PVID != 0 {
		words = append(words, fmt.Sprintf("pvid %d", v.PVID))
	}
	for _, part := range []struct {
		word string
		ids  []int
	}{{"untagged", v.Untagged}, {"tagged", v.Tagged}} {
		if len(part.ids) > 0 {
			words = append(words, part.word+" "+ranges(part.ids))
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// ranges prints sorted numbers: "10 20-22".
func ranges(ids []int) string {
	var words []string
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		word := strconv.Itoa(ids[i])
		if j > i {
			word += "-" + strconv.Itoa(ids[j])
		}
		words = append(words, word)
		i = j + 1
	}
	return strings.Join(words, " ")
}
