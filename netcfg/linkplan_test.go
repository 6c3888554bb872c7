package netcfg

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// everyLink is the links of a host that uses every kind and setting.
func everyLink() []hosts.Link {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	return []hosts.Link{
		{Name: "a-storage", Kind: hosts.LinkVLAN, Parent: "bond0", VLAN: &hosts.VLAN{ID: 100, Protocol: "802.1q"}, MTU: 9000, Addresses: []hosts.Address{
			{Prefix: prefix("10.100.0.1/24"), Scope: "link"}, {Prefix: prefix("fd00:100::1/64"), NoDAD: true, Deprecated: true},
		}},
		{Name: "nic-a", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: "02:00:00:00:00:0a"}, Master: "bond0"},
		{Name: "nic-b", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{Path: "0000:03:00.1"}, Master: "bond0"},
		{Name: "bond0", Kind: hosts.LinkBond, MTU: 9000, MAC: "02:00:00:00:00:B0", Bond: &hosts.Bond{
			Mode: "802.3ad", MIIMon: 100 * time.Millisecond, UpDelay: 250 * time.Millisecond, LACPRate: "fast", XmitHashPolicy: "layer3+4", MinLinks: 1,
		}, Addresses: []hosts.Address{{Prefix: prefix("192.0.2.10/24")}, {Prefix: prefix("192.0.2.99/24"), Valid: time.Hour, Preferred: time.Minute}}},
		{Name: "vms", Kind: hosts.LinkBridge, AltNames: []string{"virtual-machines"}, Bridge: &hosts.Bridge{
			VLANFiltering: at(true), DefaultPVID: at(0), STP: at(true), ForwardDelay: at(4 * time.Second),
		}},
		{Name: "vm0", Kind: hosts.LinkVeth, Peer: "vm0-in", Master: "vms", Port: &hosts.BridgePort{PVID: 10, Tagged: []int{20, 21, 22}, Isolated: at(true)}},
		{Name: "mesh", Kind: hosts.LinkVXLAN, Parent: "bond0", VXLAN: &hosts.VXLAN{ID: 42, Port: 4789, Local: addr("192.0.2.10"), Learning: at(false)}},
		{Name: "public", Kind: hosts.LinkMacvlan, Parent: "bond0", Macvlan: &hosts.Macvlan{Mode: "bridge"}, Down: true},
		{Name: "red", Kind: hosts.LinkVRF, VRF: &hosts.VRF{Table: 10}},
		{Name: "service", Kind: hosts.LinkDummy, Master: "red", Addresses: hosts.Plain(prefix("10.9.0.1/32"))},
		{Name: "docker0", Kind: hosts.LinkBridge, Adopt: true},
		{Name: "lost", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: "02:00:00:00:00:ff"}},
	}
}

// TestPlanOfEverythingPrints is the golden text of making all this, and of
// changing what takes links down.
func TestPlanOfEverythingPrints(t *testing.T) {
	have := State{
		Names: []string{"docker0", "eth0", "eth1", "lo"},
		Hardware: []Hardware{
			{Name: "eth0", MAC: "02:00:00:00:00:0a", Path: "0000:03:00.0"}, {Name: "eth1", MAC: "02:00:00:00:00:0b", Path: "0000:03:00.1"},
		},
		Links: []Link{
			somebodyMade(bridge("docker0")),
			{Name: "eth0", Kind: hosts.LinkPhysical, MTU: 1500, Up: true, Addresses: ours("192.0.2.10/24")},
			{Name: "eth1", Kind: hosts.LinkPhysical, MTU: 1500},
		},
		Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "eth0", 0, RouteProtocol)},
	}
	spec := &hosts.Spec{Name: "all", Network: hosts.Network{
		Links: everyLink(), Routes: []hosts.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")}},
	}}
	var text bytes.Buffer
	section := func(name string, changes []plan.Change) {
		text.WriteString("== " + name + "\n" + printed(changes))
	}
	first := Diff(have, Want(spec))
	section("from a bare host", first)
	possible := slices.DeleteFunc(first, func(c plan.Change) bool { _, no := c.Payload.(blocked); return no })
	after, err := simulate(have, possible)
	if err != nil {
		t.Fatal(err)
	}
	after.Hardware = have.Hardware

	links := everyLink()
	links[0].VLAN.ID = 101
	links[0].Addresses[0].Scope = "global"
	links[3].Bond.Mode, links[3].Bond.LACPRate, links[3].Bond.Primary, links[3].Bond.MIIMon = "active-backup", "", "nic-b", 200*time.Millisecond
	links[4].Bridge.DefaultPVID, links[4].Bridge.STP = at(5), at(false)
	links[5].Port.PVID, links[5].MAC = 0, "02:00:00:00:00:05"
	links[6].VXLAN.ID = 43
	links[7].Macvlan.Mode, links[7].Down = "private", false
	spec.Network.Links = slices.Delete(links, 8, 10) // red and what is in it
	section("other settings", Diff(after, Want(spec)))

	golden.Check(t, "testdata/everything.plan", text.String())
}

// TestMatching of hardware, as values.
func TestLinkMatching(t *testing.T) {
	have := State{
		Names: []string{"eth0", "eth1", "eth2"},
		Hardware: []Hardware{
			{Name: "eth0", MAC: "02:00:00:00:00:01", Path: "0000:01:00.0", AltNames: []string{"enp1s0"}},
			{Name: "eth1", MAC: "02:00:00:00:00:02", Path: "0000:02:00.0"},
			{Name: "eth2", MAC: "02:00:00:00:00:02"},
		},
	}
	for _, c := range []struct {
		name        string
		links       []Link
		found, lost []string
	}{
		{"by path", []Link{{Name: "lan", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{Path: "0000:02:00.0"}}}, []string{"eth1"}, []string{""}},
		{"by address", []Link{{Name: "lan", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: "02:00:00:00:00:01"}}}, []string{"eth0"}, []string{""}},
		{"by another name", []Link{{Name: "enp1s0", Kind: hosts.LinkPhysical}}, []string{"eth0"}, []string{""}},
		{"by a name that is another's", []Link{{Name: "eth0", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{Path: "0000:02:00.0"}}}, []string{"eth1"}, []string{""}},
		{
			"two of one address",
			[]Link{{Name: "lan", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{MAC: "02:00:00:00:00:02"}}},
			[]string{"lan"},
			[]string{`link "lan", the one with hardware address 02:00:00:00:00:02, is not one link but several: eth1, eth2`},
		},
		{
			"nowhere, and a name that is another's",
			[]Link{{Name: "eth1", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{Path: "0000:09:00.0"}}},
			[]string{"eth1 (not found)"},
			[]string{`link "eth1", the one at 0000:09:00.0, is not on this host; links found: eth0 (02:00:00:00:00:01, 0000:01:00.0), eth1 (02:00:00:00:00:02, 0000:02:00.0), eth2 (02:00:00:00:00:02)`},
		},
		{
			"one link twice",
			[]Link{{Name: "eth0", Kind: hosts.LinkPhysical}, {Name: "lan", Kind: hosts.LinkPhysical, Match: hosts.LinkMatch{Path: "0000:01:00.0"}}},
			[]string{"eth0", "eth0 (not found)"},
			[]string{"", `link "eth0" is eth0, which the spec's link "lan" is too`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var found, lost []string
			for _, l := range (State{Links: c.links}).resolved(have).Links {
				found, lost = append(found, l.Name), append(lost, l.Lost)
			}
			if d := cmp.Diff([][]string{c.found, c.lost}, [][]string{found, lost}); d != "" {
				t.Errorf("names and reasons (-want +got):\n%s", d)
			}
		})
	}
}
