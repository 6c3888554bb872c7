package netcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// needsKind skips a test where the kernel has no such links. In the VM it has.
func needsKind(t testing.TB, kinds ...hosts.LinkKind) {
	t.Helper()
	for _, kind := range kinds {
		if hasKind(t, kind) {
			continue
		}
		if os.Getenv("NODEAGENT_VM") == "1" {
			t.Fatalf("the VM's kernel has no %s; its module must be loaded", kind)
		}
		t.Skipf("this kernel has no %s; runs in the VM stage", kind)
	}
}

// needsFilter skips a test where the kernel filters no VLANs of bridges.
func needsFilter(t testing.TB) {
	t.Helper()
	sys := open(t)
	err := sys.newLink(Link{Name: "probe0", Kind: hosts.LinkBridge, Settings: []Setting{{"vlan_filtering", "on"}}})
	switch {
	case err == nil:
		must(t, netlink.LinkDel(linkNamed(t, "probe0")))
	case !errors.Is(err, unix.EOPNOTSUPP):
		t.Fatal(err)
	case os.Getenv("NODEAGENT_VM") == "1":
		t.Fatal("the VM's kernel filters no VLANs of bridges")
	default:
		t.Skip("this kernel filters no VLANs of bridges; runs in the VM stage")
	}
}

// hasKind tries in the test's own namespace.
func hasKind(t testing.TB, kind hosts.LinkKind) bool {
	t.Helper()
	sys := open(t)
	probe := Link{Name: "probe0", Kind: kind}
	switch kind {
	case hosts.LinkVLAN:
		probe.Parent, probe.Settings = "probe1", []Setting{{"id", "7"}}
	case hosts.LinkVRF:
		probe.Settings = []Setting{{"table", "77"}}
	}
	if probe.Parent != "" {
		must(t, sys.newLink(Link{Name: probe.Parent, Kind: hosts.LinkBridge}))
		defer func() { must(t, netlink.LinkDel(linkNamed(t, probe.Parent))) }()
	}
	err := sys.newLink(probe)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	must(t, err)
	must(t, netlink.LinkDel(linkNamed(t, probe.Name)))
	return true
}

func at[T any](v T) *T { return &v }

// ipLink is what ip(8) says of a link, by paths such as "linkinfo.info_data.id".
func ipLink(t testing.TB, name string, paths ...string) []string {
	t.Helper()
	assertApart(t)
	out, err := exec.CommandContext(t.Context(), "ip", "-j", "-d", "link", "show", "dev", name).Output()
	if err != nil {
		t.Fatalf("ip link show %s: %v", name, err)
	}
	var list []map[string]any
	must(t, json.Unmarshal(out, &list))
	var values []string
	for _, path := range paths {
		var value any = list[0]
		for _, step := range strings.Split(path, ".") {
			m, _ := value.(map[string]any)
			value = m[step]
		}
		values = append(values, fmt.Sprint(value))
	}
	return values
}

// kindCase is links of a kind, the same links with other settings, and what
// ip(8) says of them.
type kindCase struct {
	name          string
	kinds         []hosts.LinkKind
	links, others []hosts.Link
	link          string
	paths         []string
	is, then      []string
	effect        plan.Effect // of getting from the one to the other
	remade        bool
	filters       bool // a bridge's VLANs
}

func kindCases() []kindCase {
	lan := func(name string) hosts.Link { return hosts.Link{Name: name, Kind: hosts.LinkPhysical} }
	second := func(d time.Duration) *time.Duration { return &d }
	data := func(names ...string) []string {
		for i, n := range names {
			names[i] = "linkinfo.info_data." + n
		}
		return names
	}
	vxlan := func(v hosts.VXLAN) []hosts.Link {
		return []hosts.Link{{Name: "vx0", Kind: hosts.LinkVXLAN, VXLAN: &v}}
	}
	upon := func(kind hosts.LinkKind, set func(*hosts.Link)) []hosts.Link {
		l := hosts.Link{Name: "a-upper", Kind: kind, Parent: "lan0"}
		set(&l)
		return []hosts.Link{l, lan("lan0")}
	}
	port := func(p hosts.BridgePort, b hosts.Bridge) []hosts.Link {
		return []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Master: "z-br", Port: &p}, {Name: "z-br", Kind: hosts.LinkBridge, Bridge: &b}}
	}
	bond := func(b hosts.Bond) []hosts.Link {
		return []hosts.Link{
			{Name: "lan0", Kind: hosts.LinkPhysical, Master: "z-bond"},
			{Name: "lan1", Kind: hosts.LinkPhysical, Master: "z-bond"},
			{Name: "z-bond", Kind: hosts.LinkBond, Bond: &b, MAC: "02:00:00:00:0b:0d", Addresses: hosts.Plain(netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))},
		}
	}
	return []kindCase{
		{
			name: "bridge", link: "br0",
			links: []hosts.Link{{Name: "br0", Kind: hosts.LinkBridge, MAC: "02:00:00:00:00:0b", AltNames: []string{"pods", "bridge-of-pods"}, Bridge: &hosts.Bridge{
				STP: at(true), Priority: at(4096), ForwardDelay: second(4 * time.Second),
				HelloTime: second(time.Second), MaxAge: second(8 * time.Second), Ageing: second(90 * time.Second), MulticastSnooping: at(false),
			}}},
			others: []hosts.Link{{Name: "br0", Kind: hosts.LinkBridge, MAC: "02:00:00:00:00:0c", Bridge: &hosts.Bridge{
				STP: at(false), Priority: at(32768), ForwardDelay: second(0),
				HelloTime: second(2 * time.Second), MaxAge: second(20 * time.Second), Ageing: second(1230 * time.Millisecond), MulticastSnooping: at(true),
			}}},
			paths: append(data("stp_state", "priority", "forward_delay", "hello_time", "max_age", "mcast_snooping"), "address", "altnames"),
			is:    []string{"1", "4096", "400", "100", "800", "0", "02:00:00:00:00:0b", "[bridge-of-pods pods]"},
			then:  []string{"0", "32768", "0", "200", "2000", "1", "02:00:00:00:00:0c", "[bridge-of-pods pods]"}, effect: plan.Disconnect,
		},
		{
			name: "bridge that filters VLANs", link: "z-br", filters: true,
			links:  port(hosts.BridgePort{PVID: 10, Untagged: []int{30}, Tagged: []int{20, 21, 22}}, hosts.Bridge{VLANFiltering: at(true), DefaultPVID: at(10)}),
			others: port(hosts.BridgePort{Tagged: []int{21, 30}}, hosts.Bridge{VLANFiltering: at(false), DefaultPVID: at(0)}),
			paths:  data("vlan_filtering", "vlan_default_pvid"),
			is:     []string{"1", "10"}, then: []string{"0", "0"}, effect: plan.Disconnect,
		},
		{
			name: "bridge port", link: "lan0",
			links:  port(hosts.BridgePort{Cost: at(50), Priority: at(7), Isolated: at(true), Hairpin: at(true), Learning: at(false)}, hosts.Bridge{}),
			others: port(hosts.BridgePort{Cost: at(60), Priority: at(8), Isolated: at(false), Hairpin: at(false), Learning: at(true)}, hosts.Bridge{}),
			paths:  []string{"linkinfo.info_slave_data.cost", "linkinfo.info_slave_data.priority", "linkinfo.info_slave_data.isolated", "linkinfo.info_slave_data.hairpin", "linkinfo.info_slave_data.learning", "master"},
			is:     []string{"50", "7", "true", "true", "false", "z-br"}, then: []string{"60", "8", "false", "false", "true", "z-br"}, effect: plan.Disconnect,
		},
		{
			name: "veth", link: "v0",
			links:  []hosts.Link{{Name: "v0", Kind: hosts.LinkVeth, Peer: "v1", MAC: "02:00:00:00:00:01", MTU: 1400}},
			others: []hosts.Link{{Name: "v0", Kind: hosts.LinkVeth, Peer: "v1", MAC: "02:00:00:00:00:02", MTU: 1300, Down: true}},
			paths:  []string{"linkinfo.info_kind", "address", "mtu", "link"},
			is:     []string{"veth", "02:00:00:00:00:01", "1400", "v1"}, then: []string{"veth", "02:00:00:00:00:02", "1300", "v1"}, effect: plan.Disconnect,
		},
		{
			name: "vxlan", link: "vx0",
			links:  vxlan(hosts.VXLAN{ID: 42, Port: 4789, Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"), Learning: at(false), TTL: 64}),
			others: vxlan(hosts.VXLAN{ID: 42, Port: 4789, Local: netip.MustParseAddr("192.0.2.3"), Remote: netip.MustParseAddr("192.0.2.4"), Learning: at(true), TTL: 32}),
			paths:  data("id", "port", "local", "remote", "learning", "ttl"),
			is:     []string{"42", "4789", "192.0.2.1", "192.0.2.2", "false", "64"}, then: []string{"42", "4789", "192.0.2.3", "192.0.2.4", "true", "32"}, effect: plan.Disconnect,
		},
		{
			name: "vxlan, made anew", link: "vx0", remade: true,
			links:  vxlan(hosts.VXLAN{ID: 42, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}),
			others: vxlan(hosts.VXLAN{ID: 43, Port: 4790, Local: netip.MustParseAddr("2001:db8::1"), Remote: netip.MustParseAddr("2001:db8::2")}),
			paths:  data("id", "port", "local", "local6", "remote6"),
			is:     []string{"42", "4789", "192.0.2.1", "<nil>", "<nil>"}, then: []string{"43", "4790", "<nil>", "2001:db8::1", "2001:db8::2"}, effect: plan.Disconnect,
		},
		{
			name: "macvlan", link: "a-upper",
			links:  upon(hosts.LinkMacvlan, func(l *hosts.Link) { l.Macvlan = &hosts.Macvlan{Mode: "bridge"} }),
			others: upon(hosts.LinkMacvlan, func(l *hosts.Link) { l.Macvlan = &hosts.Macvlan{Mode: "private"} }),
			paths:  append(data("mode"), "link"), is: []string{"bridge", "lan0"}, then: []string{"private", "lan0"}, effect: plan.Disconnect,
		},
		{
			name: "macvlan, another parent", link: "a-upper", remade: true,
			links: upon(hosts.LinkMacvlan, func(l *hosts.Link) { l.Macvlan = &hosts.Macvlan{Mode: "bridge"} }),
			others: upon(hosts.LinkMacvlan, func(l *hosts.Link) {
				l.Parent, l.Macvlan = "lan1", &hosts.Macvlan{Mode: "passthru"}
			}),
			paths: append(data("mode"), "link"), is: []string{"bridge", "lan0"}, then: []string{"passthru", "lan1"}, effect: plan.Disconnect,
		},
		{
			name: "dummy", kinds: []hosts.LinkKind{hosts.LinkDummy}, link: "d0",
			links:  []hosts.Link{{Name: "d0", Kind: hosts.LinkDummy, MAC: "02:00:00:00:00:0d"}},
			others: []hosts.Link{{Name: "d0", Kind: hosts.LinkDummy, MAC: "02:00:00:00:00:0e", MTU: 9000}},
			paths:  []string{"linkinfo.info_kind", "address", "mtu"},
			is:     []string{"dummy", "02:00:00:00:00:0d", "1500"}, then: []string{"dummy", "02:00:00:00:00:0e", "9000"}, effect: plan.Disconnect,
		},
		{
			name: "vlan", kinds: []hosts.LinkKind{hosts.LinkVLAN}, link: "a-upper", remade: true,
			links:  upon(hosts.LinkVLAN, func(l *hosts.Link) { l.VLAN = &hosts.VLAN{ID: 100, Protocol: "802.1q"} }),
			others: upon(hosts.LinkVLAN, func(l *hosts.Link) { l.VLAN = &hosts.VLAN{ID: 200, Protocol: "802.1ad"} }),
			paths:  append(data("id", "protocol"), "link"), is: []string{"100", "802.1Q", "lan0"}, then: []string{"200", "802.1ad", "lan0"}, effect: plan.Disconnect,
		},
		{
			name: "vrf", kinds: []hosts.LinkKind{hosts.LinkVRF}, link: "z-vrf", remade: true,
			links:  []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Master: "z-vrf", Addresses: hosts.Plain(netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))}, {Name: "z-vrf", Kind: hosts.LinkVRF, VRF: &hosts.VRF{Table: 10}}},
			others: []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Master: "z-vrf", Addresses: hosts.Plain(netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))}, {Name: "z-vrf", Kind: hosts.LinkVRF, VRF: &hosts.VRF{Table: 11}}},
			paths:  data("table"), is: []string{"10"}, then: []string{"11"}, effect: plan.Disconnect,
		},
		{
			name: "bond, 802.3ad and back", kinds: []hosts.LinkKind{hosts.LinkBond}, link: "z-bond",
			links: bond(hosts.Bond{
				Mode: "802.3ad", MIIMon: 100 * time.Millisecond, UpDelay: 250 * time.Millisecond, DownDelay: 300 * time.Millisecond,
				LACPRate: "fast", XmitHashPolicy: "layer3+4", AdSelect: "bandwidth", MinLinks: 1,
			}),
			others: bond(hosts.Bond{Mode: "active-backup", MIIMon: 200 * time.Millisecond, UpDelay: 400 * time.Millisecond, Primary: "lan1", PrimaryReselect: "better", FailOverMAC: "follow"}),
			paths:  data("mode", "miimon", "updelay", "downdelay", "ad_lacp_rate", "xmit_hash_policy", "ad_select", "min_links", "primary", "primary_reselect", "fail_over_mac"),
			is:     []string{"802.3ad", "100", "200", "300", "fast", "layer3+4", "bandwidth", "1", "<nil>", "always", "none"},
			then:   []string{"active-backup", "200", "400", "600", "fast", "layer3+4", "bandwidth", "1", "lan1", "better", "follow"}, effect: plan.Disconnect,
		},
		{
			name: "bond that asks with ARP", kinds: []hosts.LinkKind{hosts.LinkBond}, link: "z-bond",
			links:  bond(hosts.Bond{Mode: "active-backup", ARPInterval: time.Second, ARPTargets: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")}, Primary: "lan0"}),
			others: bond(hosts.Bond{Mode: "active-backup", ARPInterval: 2 * time.Second, ARPTargets: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, Primary: "lan1"}),
			paths:  data("mode", "arp_interval", "arp_ip_target", "primary"),
			is:     []string{"active-backup", "1000", "[192.0.2.7 192.0.2.8]", "lan0"}, then: []string{"active-backup", "2000", "[192.0.2.9]", "lan1"}, effect: plan.Quiet,
		},
	}
}

// TestEveryKindOfLink makes links of each kind, changes every setting and takes
// all away again; ip(8) says what there is, and one apply is enough each time.
func TestEveryKindOfLink(t *testing.T) {
	for _, c := range kindCases() {
		t.Run(c.name, func(t *testing.T) {
			newNamespace(t)
			needsKind(t, c.kinds...)
			if c.filters {
				needsFilter(t)
			}
			somebodysVeth(t, "lan0", "wire0")
			somebodysVeth(t, "lan1", "wire1")
			sys, before := open(t), dumpNetwork(t)

			converge(t, sys, network(c.links))
			if d := cmp.Diff(c.is, ipLink(t, c.link, c.paths...)); d != "" {
				t.Errorf("made (-want +ip):\n%s", d)
			}
			index := linkNamed(t, c.link).Attrs().Index
			changes := converge(t, sys, network(c.others))
			if d := cmp.Diff(c.then, ipLink(t, c.link, c.paths...)); d != "" {
				t.Errorf("changed (-want +ip):\n%s\nby\n%s", d, printed(changes))
			}
			if remade := linkNamed(t, c.link).Attrs().Index != index; remade != c.remade {
				t.Errorf("made anew: %v, want %v; plan was\n%s", remade, c.remade, printed(changes))
			}
			if got := (plan.Plan{Changes: changes}).Effect(); got != c.effect {
				t.Errorf("effect is %s, want %s; plan was\n%s", got, c.effect, printed(changes))
			}
			for _, change := range changes {
				if change.Action == plan.ActionUpdate && change.Before == change.After {
					t.Errorf("nothing to be seen of %s", printed([]plan.Change{change}))
				}
			}
			converge(t, sys, network(c.links))
			if d := cmp.Diff(c.is[:1], ipLink(t, c.link, c.paths[:1]...)); d != "" {
				t.Errorf("changed back (-want +ip):\n%s", d)
			}
			converge(t, sys, State{})
			if d := cmp.Diff(before, dumpNetwork(t)); d != "" && !slices.Contains(c.kinds, hosts.LinkBond) { // which leaves its ports down
				t.Errorf("a spec that names nothing leaves (-before +after):\n%s", d)
			}
		})
	}
}

// TestVLANsOfPorts as bridge(8) lists them.
func TestVLANsOfPorts(t *testing.T) {
	newNamespace(t)
	needsFilter(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	vlans := func() string {
		out, err := exec.CommandContext(t.Context(), "bridge", "-c=never", "vlan", "show", "dev", "lan0").Output()
		must(t, err)
		fields := strings.Fields(string(out))
		return strings.Join(fields[2:], " ") // after the head
	}
	for _, c := range []struct {
		port hosts.BridgePort
		pvid *int
		want string
	}{
		{hosts.BridgePort{Tagged: []int{20, 21}}, nil, "lan0 1 PVID Egress Untagged 20 21"},
		{hosts.BridgePort{Tagged: []int{20}, PVID: 10}, nil, "lan0 10 PVID Egress Untagged 20"},
		{hosts.BridgePort{Tagged: []int{10}, PVID: 10, Untagged: []int{20}}, nil, "lan0 10 PVID 20 Egress Untagged"},
		{hosts.BridgePort{Tagged: []int{30}}, at(7), "lan0 7 PVID Egress Untagged 30"},
		{hosts.BridgePort{Tagged: []int{30}}, at(8), "lan0 8 PVID Egress Untagged 30"},
		{hosts.BridgePort{Tagged: []int{30}}, at(0), "lan0 30"},
		{hosts.BridgePort{Tagged: []int{30}}, at(9), "lan0 9 PVID Egress Untagged 30"},
	} {
		want := network([]hosts.Link{
			{Name: "br0", Kind: hosts.LinkBridge, Bridge: &hosts.Bridge{VLANFiltering: at(true), DefaultPVID: c.pvid}},
			{Name: "lan0", Kind: hosts.LinkPhysical, Master: "br0", Port: &c.port},
		})
		converge(t, sys, want)
		if got := vlans(); got != c.want {
			t.Errorf("VLANs are %q, want %q", got, c.want)
		}
	}
	must(t, netlink.BridgeVlanAdd(linkNamed(t, "lan0"), 99, false, false, false, true))
	must(t, netlink.BridgeVlanDel(linkNamed(t, "lan0"), 30, false, false, false, true))
	changes := converge(t, sys, network([]hosts.Link{
		{Name: "br0", Kind: hosts.LinkBridge, Bridge: &hosts.Bridge{VLANFiltering: at(true), DefaultPVID: at(9)}},
		{Name: "lan0", Kind: hosts.LinkPhysical, Master: "br0", Port: &hosts.BridgePort{Tagged: []int{30}}},
	}))
	want := `update link lan0 [disconnect] "veth to wire0, master br0, mtu 1500, up\nvlans pvid 9, untagged 9, tagged 99" -> "veth to wire0, master br0, mtu 1500, up\nvlans pvid 9, untagged 9, tagged 30": the spec wants vlans pvid 9, untagged 9, tagged 30
`
	if got := printed(changes); got != want {
		t.Errorf("plan is\n%swant\n%s", got, want)
	}
}

// TestPhysicalLinkByItsAddress finds a link by what it is; everything in the spec
// then means that link.
func TestPhysicalLinkByItsAddress(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "enp1s0", "wire0")
	somebodysVeth(t, "enp2s0", "wire1")
	sys := open(t)
	mac := linkNamed(t, "enp2s0").Attrs().HardwareAddr.String()
	prefix := netip.MustParsePrefix
	want := Want(&hosts.Spec{
		Network: hosts.Network{
			Links: []hosts.Link{
				{Name: "lan0", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: strings.ToUpper(mac)}, Addresses: hosts.Plain(prefix("192.0.2.10/24"))},
				{Name: "mv0", Kind: hosts.LinkMacvlan, Parent: "lan0", Macvlan: &hosts.Macvlan{Mode: "bridge"}},
			},
			Routes: []hosts.Route{
				{Destination: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")},
				{Destination: prefix("198.51.100.0/24"), Nexthops: []hosts.Nexthop{
					{Via: netip.MustParseAddr("192.0.2.3"), Device: "mv0", OnLink: true}, {Via: netip.MustParseAddr("192.0.2.2"), Device: "lan0"},
				}},
			},
			Rules: []hosts.Rule{{Priority: 100, Inbound: "lan0", Table: 99}, {Priority: 101, Outbound: "lan0", Table: 99}},
		},
		Firewall: hosts.Firewall{
			Enabled: true, Allow: []hosts.Allow{{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, Interfaces: []string{"lan0"}}},
			Forward:    &hosts.Forward{Allow: []hosts.ForwardAllow{{Name: "out", Outbound: []string{"lan0"}, Inbound: []string{"mv0"}}}},
			Masquerade: []hosts.Masquerade{{Name: "all", From: []netip.Prefix{prefix("10.0.0.0/8")}, Outbound: []string{"lan0"}}},
		},
	})
	converge(t, sys, want)
	if got := ipLink(t, "enp2s0", "altnames", "ifname"); got[0] != "[lan0]" || got[1] != "enp2s0" {
		t.Errorf("the link is %v", got)
	}
	if got := ipLink(t, "mv0", "link"); got[0] != "enp2s0" {
		t.Errorf("mv0 lies upon %v", got)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", "ip route show; ip rule; nft list ruleset").CombinedOutput()
	must(t, err)
	for _, text := range []string{"via 192.0.2.1 dev enp2s0", "via 192.0.2.2 dev enp2s0", "iif enp2s0", "oif enp2s0", `iifname { "enp2s0" } tcp`, `oifname { "enp2s0" }`} {
		if !strings.Contains(string(out), text) {
			t.Errorf("there is no %q in\n%s", text, out)
		}
	}
	if strings.Contains(string(out), "lan0") {
		t.Errorf("the spec's name is in\n%s", out)
	}

	// A link that is nowhere is one change, and nothing is done to one of its name.
	lost := network([]hosts.Link{{Name: "enp1s0", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: "02:de:ad:00:00:01"}, Addresses: hosts.Plain(prefix("198.51.100.1/24"))}},
		hosts.Route{Destination: prefix("203.0.113.0/24"), Device: "enp1s0"})
	changes := diffNow(t, sys, lost)
	blockedAt := slices.IndexFunc(changes, func(c plan.Change) bool { return c.Action == plan.ActionCreate })
	if blockedAt < 0 || strings.Contains(printed(changes), "198.51.100.1") || strings.Contains(printed(changes), "203.0.113") {
		t.Fatalf("plan is\n%s", printed(changes))
	}
	err = sys.Apply(t.Context(), changes[blockedAt:blockedAt+1], plan.Silent{})
	for _, text := range []string{`link "enp1s0", the one with hardware address 02:de:ad:00:00:01, is not on this host; links found: `, "enp2s0 (" + mac + ")"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error is %v, want in it %q", err, text)
		}
	}
}

// TestLinkByAlternativeName: a spec may use any name of a link.
func TestLinkByAlternativeName(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "eth0", "wire0")
	must(t, netlink.LinkAddAltName(linkNamed(t, "eth0"), "enp3s0"))
	sys := open(t)
	converge(t, sys, network([]hosts.Link{physical("enp3s0", "192.0.2.10/24")}))
	if got := prefixesOf(t, observed(t, sys, network([]hosts.Link{physical("eth0")})), "eth0"); !slices.Equal(got, []string{"192.0.2.10/24"}) {
		t.Errorf("eth0 has %v", got)
	}
}
