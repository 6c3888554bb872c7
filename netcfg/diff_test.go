package netcfg

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Shorthands for tables of states.

func bridge(name string, addresses ...string) Link {
	return Link{Name: name, Kind: hosts.LinkBridge, Driver: "bridge", MTU: 1500, Up: true, Owned: true, Marked: true, Addresses: ours(addresses...)}
}

func veth(name, peer string) Link {
	return Link{Name: name, Kind: hosts.LinkVeth, Driver: "veth", Peer: peer, MTU: 1500, Up: true, Owned: true, Marked: true}
}

func hardware(name string, addresses ...string) Link {
	return Link{Name: name, Kind: hosts.LinkPhysical, MTU: 1500, Up: true, Addresses: ours(addresses...)}
}

func ours(prefixes ...string) []Address {
	var addresses []Address
	for _, p := range prefixes {
		addresses = append(addresses, Address{Prefix: netip.MustParsePrefix(p), Owned: true})
	}
	return addresses
}

func theirs(l Link, prefix string) Link {
	l.Addresses = append(slices.Clone(l.Addresses), Address{Prefix: netip.MustParsePrefix(prefix)})
	return l
}

func with(l Link, set func(*Link)) Link {
	set(&l)
	return l
}

func somebodyMade(l Link) Link {
	l.Owned, l.Marked = false, false
	return l
}

func route(destination, via, device string, metric, protocol int) Route {
	r := Route{Destination: netip.MustParsePrefix(destination), Device: device, Metric: metric, Protocol: protocol}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name       string
		have, want State
		plan       string
	}{
		{name: "nothing wanted, nothing there"},
		{
			name: "what is there serves, whoever made it",
			have: State{
				Links:  []Link{theirs(hardware("lan0"), "192.0.2.10/24")},
				Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 0, 16), route("::/0", "2001:db8::1", "lan0", 1024, 9)},
			},
			want: State{
				Links:  []Link{hardware("lan0", "192.0.2.10/24")},
				Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 0, RouteProtocol), route("::/0", "2001:db8::1", "", 0, RouteProtocol)},
			},
		},
		{
			name: "a link that somebody made is taken over only on request",
			have: State{Links: []Link{
				with(somebodyMade(bridge("docker0")), func(l *Link) { l.Alias = "pods of a host" }),
				somebodyMade(bridge("docker1")), somebodyMade(veth("v0", "v1")), somebodyMade(veth("v1", "v0")),
			}},
			want: State{Links: []Link{
				bridge("docker0", "10.0.0.1/24"), with(bridge("docker1"), func(l *Link) { l.Adopt = true }),
				with(veth("v0", "v1"), func(l *Link) { l.Adopt = true }), veth("v1", "v0"),
			}},
			plan: `create link docker0 [quiet] "bridge, mtu 1500, up" -> "bridge, mtu 1500, up": link "docker0" is a bridge that somebody else (alias "pods of a host") made; write adopt = true to take it over, or remove or rename it
update link docker1 [quiet] "bridge, mtu 1500, up\nalias \"\"" -> "bridge, mtu 1500, up\nalias \"nodeagent\"": the spec takes it over; Docker made it
update link v0 [quiet] "veth to v1, mtu 1500, up\nalias \"\"" -> "veth to v1, mtu 1500, up\nalias \"nodeagent\"": the spec takes it over; somebody else made it
create link v1 [quiet] "veth to v0, mtu 1500, up" -> "veth to v0, mtu 1500, up": link "v1" is a veth to v0 that somebody else made; write adopt = true to take it over, or remove or rename it
`,
		},
		{
			name: "what somebody made stays when the spec drops it",
			have: State{Links: []Link{theirs(hardware("lan0"), "192.0.2.10/24"), somebodyMade(bridge("br0"))}, Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 0, 16)}},
		},
		{
			name: "what nodeagent made goes when the spec drops it, a pair as one",
			have: State{
				Links:  []Link{bridge("br0", "10.0.0.1/24"), hardware("lan0", "192.0.2.10/24"), veth("v0", "v1"), veth("v1", "v0")},
				Routes: []Route{route("10.9.0.0/16", "10.0.0.9", "br0", 0, RouteProtocol)},
			},
			plan: `delete route 10.9.0.0/16 [disconnect] "10.9.0.0/16 via 10.0.0.9 dev br0" -> "": nodeagent made it and the spec no longer names it
delete address 192.0.2.10/24 on lan0 [disconnect] "192.0.2.10/24" -> "": nodeagent made it and the spec no longer names it
delete link br0 [disconnect] "bridge, mtu 1500, up" -> "": nodeagent made it and the spec no longer names it
delete link v0 [disconnect] "veth to v1, mtu 1500, up" -> "": nodeagent made it and the spec no longer names it
`,
		},
		{
			name: "settings of links",
			have: State{Links: []Link{hardware("lan0"), with(hardware("lan1"), func(l *Link) { l.Up = false }), bridge("br0"), with(veth("v0", "v1"), func(l *Link) { l.Master = "br0" }), veth("v1", "v0")}},
			want: State{Links: []Link{bridge("br0"), with(hardware("lan0"), func(l *Link) { l.MTU = 9000 }), with(hardware("lan1"), func(l *Link) { l.Master = "br0" }), veth("v0", "v1"), with(veth("v1", "v0"), func(l *Link) { l.MTU = 1400 })}},
			plan: `update link lan0 [disconnect] "physical, mtu 1500, up" -> "physical, mtu 9000, up": the spec wants mtu 9000
update link lan1 [disconnect] "physical, mtu 1500, down" -> "physical, master br0, mtu 1500, up": the spec wants master br0; it is down
update link v0 [disconnect] "veth to v1, master br0, mtu 1500, up" -> "veth to v1, mtu 1500, up": the spec wants no master
update link v1 [quiet] "veth to v0, mtu 1500, up" -> "veth to v0, mtu 1400, up": the spec wants mtu 1400
`,
		},
		{
			name: "somebody's master and unmanaged MTU are left alone",
			have: State{Links: []Link{with(hardware("lan0"), func(l *Link) { l.Master, l.MTU = "docker0", 1337 })}},
			want: State{Links: []Link{with(hardware("lan0"), func(l *Link) { l.MTU = 0 })}},
		},
		{
			name: "a link that was half made",
			have: State{Links: []Link{with(bridge("br0"), func(l *Link) { l.Marked, l.Up = false, false })}},
			want: State{Links: []Link{bridge("br0")}},
			plan: `update link br0 [quiet] "bridge, mtu 1500, down" -> "bridge, mtu 1500, up": nodeagent made it and was stopped before it set the alias; it is down
`,
		},
		{
			name: "what cannot be had is one change, without addresses and routes",
			have: State{Names: []string{"lo", "eth0"}, Links: []Link{with(somebodyMade(hardware("br0")), func(l *Link) { l.Driver = "dummy" })}},
			want: State{
				Links:  []Link{bridge("br0", "10.0.0.1/24"), hardware("eno1", "192.0.2.10/24")},
				Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "eno1", 0, RouteProtocol)},
			},
			plan: `create link br0 [quiet] "dummy, mtu 1500, up" -> "bridge, mtu 1500, up": link "br0" is a dummy that nodeagent did not make; remove or rename it, or change the spec
create link eno1 [quiet] "" -> "physical, mtu 1500, up": link "eno1" is not on this host; links found: lo, eth0
`,
		},
		{
			name: "a pair with another end is made anew, with what was on it",
			have: State{
				Links:  []Link{with(veth("v0", "v1"), func(l *Link) { l.Addresses = ours("10.0.0.1/24") }), veth("v1", "v0")},
				Routes: []Route{route("10.9.0.0/16", "10.0.0.9", "v0", 0, RouteProtocol)},
			},
			want: State{
				Links:  []Link{with(veth("v0", "v2"), func(l *Link) { l.Addresses = ours("10.0.0.1/24") }), veth("v2", "v0")},
				Routes: []Route{route("10.9.0.0/16", "10.0.0.9", "v0", 0, RouteProtocol)},
			},
			plan: `delete link v0 [disconnect] "veth to v1, mtu 1500, up" -> "": it is a veth to v1 and the spec wants a veth to v2
create link v0 [quiet] "" -> "veth to v2, mtu 1500, up": the spec names it and the host lacks it
create link v2 [quiet] "" -> "veth to v0, mtu 1500, up": it is made with its other end v0
create address 10.0.0.1/24 on v0 [quiet] "" -> "10.0.0.1/24": the spec names it and the host lacks it
create route 10.9.0.0/16 [quiet] "" -> "10.9.0.0/16 via 10.0.0.9 dev v0": the spec names it and the host lacks it
`,
		},
		{
			name: "a new address and gateway: add, switch, delete",
			have: State{Links: []Link{hardware("lan0", "192.0.2.10/24")}, Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 0, RouteProtocol)}},
			want: State{Links: []Link{hardware("lan0", "198.51.100.10/24")}, Routes: []Route{route("0.0.0.0/0", "198.51.100.1", "lan0", 0, RouteProtocol)}},
			plan: `create address 198.51.100.10/24 on lan0 [quiet] "" -> "198.51.100.10/24": the spec names it and the host lacks it
update route 0.0.0.0/0 [disconnect] "default via 192.0.2.1 dev lan0" -> "default via 198.51.100.1 dev lan0": the spec wants other values
delete address 192.0.2.10/24 on lan0 [disconnect] "192.0.2.10/24" -> "": nodeagent made it and the spec no longer names it
`,
		},
		{
			name: "a route whose source goes is written again",
			have: State{Links: []Link{hardware("lan0", "192.0.2.10/24", "192.0.2.11/24")}, Routes: []Route{func() Route {
				r := route("0.0.0.0/0", "192.0.2.1", "lan0", 0, RouteProtocol)
				r.Source = netip.MustParseAddr("192.0.2.10")
				return r
			}()}},
			want: State{Links: []Link{hardware("lan0", "192.0.2.11/24")}, Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 0, RouteProtocol)}},
			plan: `update route 0.0.0.0/0 [disconnect] "default via 192.0.2.1 dev lan0 src 192.0.2.10" -> "default via 192.0.2.1 dev lan0": the spec wants other values
delete address 192.0.2.10/24 on lan0 [disconnect] "192.0.2.10/24" -> "": nodeagent made it and the spec no longer names it
`,
		},
		{
			name: "a route without a wanted device leaves a link that goes",
			have: State{Links: []Link{bridge("br0")}, Routes: []Route{route("10.9.0.0/16", "172.16.0.9", "br0", 0, RouteProtocol)}},
			want: State{Routes: []Route{route("10.9.0.0/16", "172.16.0.9", "", 0, RouteProtocol)}},
			plan: `update route 10.9.0.0/16 [disconnect] "10.9.0.0/16 via 172.16.0.9 dev br0" -> "10.9.0.0/16 via 172.16.0.9": its link or its source address is about to go
delete link br0 [disconnect] "bridge, mtu 1500, up" -> "": nodeagent made it and the spec no longer names it
`,
		},
		{
			name: "a WireGuard device that is dropped goes last",
			have: State{
				Links:     []Link{hardware("lan0", "192.0.2.9/24")},
				WireGuard: &WireGuard{Interface: "wg0", Device: WireGuardLink, Owned: true, Marked: true, Up: true},
				Routes:    []Route{route("10.9.0.0/16", "", "wg0", 0, RouteProtocol)},
			},
			plan: `delete route 10.9.0.0/16 [disconnect] "10.9.0.0/16 dev wg0" -> "": nodeagent made it and the spec no longer names it
delete address 192.0.2.9/24 on lan0 [disconnect] "192.0.2.9/24" -> "": nodeagent made it and the spec no longer names it
delete wireguard wg0 [disconnect] "wireguard" -> "": nodeagent made it and the spec no longer names it
`,
		},
		{
			name: "the same destination with two metrics is two routes",
			have: State{Links: []Link{hardware("lan0", "192.0.2.10/24")}, Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 10, RouteProtocol)}},
			want: State{Links: []Link{hardware("lan0", "192.0.2.10/24")}, Routes: []Route{route("0.0.0.0/0", "192.0.2.1", "lan0", 10, RouteProtocol), route("0.0.0.0/0", "192.0.2.2", "lan0", 20, RouteProtocol)}},
			plan: `create route 0.0.0.0/0 metric 20 [quiet] "" -> "default via 192.0.2.2 dev lan0 metric 20": the spec names it and the host lacks it
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.plan, printed(Diff(c.have, c.want))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWant(t *testing.T) {
	got := Want(mercury())
	var names []string
	for _, l := range got.Links {
		names = append(names, l.Name)
	}
	if want := []string{"br0", "lan0", "vhost", "vpod"}; !slices.Equal(names, want) {
		t.Errorf("links are %v, want %v: masters first, both ends of a pair", names, want)
	}
	var routes []string
	for _, r := range got.Routes {
		routes = append(routes, r.String())
	}
	want := []string{
		"default via 198.51.100.1 dev lan0",
		"10.99.0.0/16 via 10.20.0.254 dev br0 metric 50",
		"198.51.100.1 dev lan0",
		"default via 2001:db8::1 dev lan0",
	}
	if diff := cmp.Diff(want, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

// TestWireGuardComesBeforeItsRoutes: also where its device takes the place of
// one with another name, whose routes the kernel removes with it.
func TestWireGuardComesBeforeItsRoutes(t *testing.T) {
	have := State{
		WireGuard: &WireGuard{Interface: "wg0", Device: WireGuardLink, Owned: true, Marked: true, Up: true},
		Routes:    []Route{route("10.9.0.0/16", "", "wg0", 0, RouteProtocol), route("10.8.0.0/16", "", "wg0", 0, RouteProtocol)},
	}
	want := State{
		WireGuard: &WireGuard{Interface: "wg1", Address: netip.MustParsePrefix("10.0.0.1/24")},
		Routes:    []Route{route("10.9.0.0/16", "", "wg1", 0, RouteProtocol)},
	}
	changes := Diff(have, want)
	at := func(key string, action plan.Action) int {
		return slices.IndexFunc(changes, func(c plan.Change) bool { return c.Key == key && c.Action == action })
	}
	dropped, made, routed := at("wireguard wg0", plan.ActionDelete), at("wireguard wg1", plan.ActionCreate), at("route 10.9.0.0/16", plan.ActionCreate)
	if dropped != 0 || made < dropped || routed != len(changes)-1 {
		t.Errorf("order is\n%s", printed(changes))
	}
}

// TestPortsBeforeTheirMasters in the spec come after them in the state.
func TestPortsBeforeTheirMasters(t *testing.T) {
	got := wantLinks([]hosts.Link{
		{Name: "a", Kind: hosts.LinkPhysical, Master: "z"},
		{Name: "b", Kind: hosts.LinkVeth, Peer: "c", Master: "y"},
		{Name: "z", Kind: hosts.LinkBridge},
		{Name: "y", Kind: hosts.LinkBridge},
	})
	var names []string
	for _, l := range got {
		names = append(names, l.Name)
	}
	if want := []string{"z", "a", "y", "b", "c"}; !slices.Equal(names, want) {
		t.Errorf("order is %v, want %v", names, want)
	}
}

// TestPlanPrints is the golden text of a whole plan as people see it.
func TestPlanPrints(t *testing.T) {
	have := State{Links: []Link{hardware("lan0", "192.0.2.9/24")}, Routes: []Route{route("0.0.0.0/0", "192.0.2.254", "lan0", 0, 16)}, Names: []string{"lan0", "lo"}}
	var text bytes.Buffer
	for _, c := range Diff(have, Want(mercury())) {
		text.WriteString(c.String() + "\n")
		if c.Domain != Domain || c.Payload == nil || c.Key == "" || c.Reason == "" {
			t.Errorf("change lacks a field: %+v", c)
		}
		if c.Action == plan.ActionUpdate && (c.Before == "" || c.After == "" || c.Before == c.After) {
			t.Errorf("update without a difference: %+v", c)
		}
	}
	want := `network: create link br0
network: create link vhost
network: create link vpod
network: create address 10.20.0.1/24 on br0
network: create address 192.0.2.10/24 on lan0
network: create address 2001:db8::10/64 on lan0
network: create route 198.51.100.1/32
network: update route 0.0.0.0/0
network: create route 10.99.0.0/16 metric 50
network: create route ::/0
network: delete address 192.0.2.9/24 on lan0
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}
