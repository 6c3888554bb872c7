package netcfg

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// dumped is what tools of others say of the namespace.
func dumped(t testing.TB) string {
	t.Helper()
	all := ""
	// Left out: carrier and link-local addresses, which come and go by themselves.
	const links = `ip -o link | sed -E 's/^[0-9]+: ([^:]*): <([^>]*)>/\1 \2/; s/(LOWER_UP|NO-CARRIER|M-DOWN),?//g; s/, / /; s/link.*//; s/state [A-Z]*//' | sort`
	for _, c := range [][]string{
		{"ip", "-o", "address", "show", "scope", "global"},
		{"ip", "-o", "-4", "address", "show", "scope", "link"},
		{"sh", "-c", "ip -j -d link | tr '{},' '\\n' | grep -E '\"(ifname|address|mtu|altnames|group|ifalias|info_kind|stp_state|forward_delay|ageing_time|mcast_snooping|cost|isolated|learning|id|mode)\"'"},
		{"ip", "-4", "route", "show", "table", "all"},
		{"ip", "-4", "rule"},
		{"ip", "-6", "rule"},
		{"sh", "-c", "ip -6 route show table all | grep -v 'fe80\\|table local\\|^multicast\\|ff00::' || true"},
		{"sh", "-c", links},
		{"nft", "--stateless", "list", "ruleset"},
	} {
		out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", c, err, out)
		}
		all += strings.ReplaceAll(string(out), " linkdown", "")
	}
	return all
}

// stored is the state as a file gives it back.
func stored(t testing.TB, s State) State {
	t.Helper()
	content, err := json.Marshal(s)
	must(t, err)
	var read State
	must(t, json.Unmarshal(content, &read))
	return read
}

func confirmedState() State {
	return State{
		Links: []Link{{
			Name: "lan0", Kind: hosts.LinkPhysical, Up: true,
			Addresses: []Address{{Prefix: netip.MustParsePrefix("192.0.2.10/24"), Owned: true}},
		}, {Name: "br0", Kind: hosts.LinkBridge, Up: true, Owned: true, Marked: true}},
		Routes: []Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.1"), Device: "lan0", Protocol: RouteProtocol}},
		Firewall: &Firewall{Base: firewallBase, Rules: append(basicRules(), FirewallRule{
			Name: "ssh", Protocol: "tcp", Ports: []PortRange{{22, 22}},
		})},
	}
}

// TestBackFromKernel applies states that cut the way in and goes back.
func TestBackFromKernel(t *testing.T) {
	cut := map[string]func(*State){
		"nothing":          func(*State) {},
		"the address goes": func(s *State) { s.Links[0].Addresses = nil; s.Routes = nil },
		"another address": func(s *State) {
			s.Links[0].Addresses[0].Prefix = netip.MustParsePrefix("203.0.113.9/24")
			s.Routes = nil
		},
		"the link goes":   func(s *State) { s.Links = s.Links[1:]; s.Routes = nil },
		"under a bridge":  func(s *State) { s.Links[0].Master = "br0" },
		"another MTU":     func(s *State) { s.Links[0].MTU = 1400 },
		"the bridge goes": func(s *State) { s.Links = s.Links[:1] },
		"a new bridge": func(s *State) {
			s.Links = append(s.Links, Link{Name: "br1", Kind: hosts.LinkBridge, Up: true, Owned: true, Marked: true})
		},
		"route replaced": func(s *State) {
			s.Routes = append(s.Routes, Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.77"), Device: "lan0", Protocol: RouteProtocol, Adopt: true})
		},
		"route gone":      func(s *State) { s.Routes = nil },
		"the port closes": func(s *State) { s.Firewall.Rules = s.Firewall.Rules[:2] },
		"no firewall":     func(s *State) { s.Firewall = nil },
		"a link comes up": func(s *State) {
			s.Links = append(s.Links, Link{Name: "lan1", Kind: hosts.LinkPhysical, Up: true, MTU: 1300})
		},
		"another hardware address": func(s *State) { s.Links[0].MAC = "02:00:00:00:00:77" },
		"another name too":         func(s *State) { s.Links[0].AltNames = []string{"uplink", "wan"} },
		"a link goes down":         func(s *State) { s.Links[0].Up, s.Routes = false, nil },
		"a bridge's settings": func(s *State) {
			s.Links[1].Settings = []Setting{{"stp", "on"}, {"forward_delay", "5s"}, {"ageing", "1m0s"}, {"multicast_snooping", "off"}}
			s.Links[1].MAC, s.Links[1].Up = "02:00:00:00:00:78", false
		},
		"under a bridge, as a port of many settings": func(s *State) {
			s.Links[0].Master, s.Links[0].Placed = "br0", true
			s.Links[0].Port = []Setting{{"cost", "7"}, {"isolated", "on"}, {"learning", "off"}}
		},
		"links upon links": func(s *State) {
			s.Links = append(s.Links,
				Link{Name: "mv0", Kind: hosts.LinkMacvlan, Parent: "lan0", Up: true, Owned: true, Marked: true, Settings: []Setting{{"mode", "bridge"}}},
				Link{Name: "vx0", Kind: hosts.LinkVXLAN, Parent: "lan0", Up: true, Owned: true, Marked: true, Settings: []Setting{{"id", "7"}, {"port", "4789"}}})
		},
		"an address that goes by itself": func(s *State) { s.Links[0].Addresses[0].Valid = time.Hour },
		"an address of another scope":    func(s *State) { s.Links[0].Addresses[0].Scope = "link" },
		"all of it at once":              func(s *State) { *s = State{} },
	}
	for name, change := range cut {
		t.Run(name, func(t *testing.T) {
			newNamespace(t)
			sys := open(t)
			somebodysVeth(t, "lan0", "lan0-peer")
			somebodysVeth(t, "lan1", "lan1-peer")
			must(t, netlink.LinkSetDown(linkNamed(t, "lan1")))
			converge(t, sys, confirmedState())
			// Somebody's own default route depends on nodeagent's address.
			somebodysRoute(t, "lan0", "0.0.0.0/0", "192.0.2.254", 0, unix.RTPROT_BOOT)
			before := dumped(t)

			want := confirmedState()
			change(&want)
			have, err := sys.Before(t.Context(), "", want)
			must(t, err)
			back, err := Back(have, want)
			must(t, err)
			if d := cmp.Diff(stored(t, back), back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Fatalf("stored and read back it differs:\n%s", d)
			}
			changes := Diff(have, want)
			must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
			if len(changes) > 0 && dumped(t) == before {
				t.Fatalf("applying changed nothing:\n%s", printed(changes))
			}
			undo := converge(t, sys, stored(t, back))
			if after := dumped(t); after != before {
				t.Errorf("not exactly back (-before +after):\n%s\nundone by:\n%s", cmp.Diff(before, after), printed(undo))
			}
		})
	}
}

func TestBackRefusesWhatCannotComeBack(t *testing.T) {
	for name, have := range map[string]State{
		"encapsulation":  {Routes: []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Protocol: unix.RTPROT_STATIC, Other: "encapsulated"}}},
		"tampered table": {Firewall: &Firewall{Base: firewallBase, Rules: []FirewallRule{{Name: "x", Other: "a rule that nodeagent does not make"}}}},
		"IPv6 address":   {Links: []Link{{Name: "lan0", Addresses: []Address{{Prefix: netip.MustParsePrefix("2001:db8::1/64")}}}}},
	} {
		want := State{
			Links:  []Link{{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: []Address{{Prefix: netip.MustParsePrefix("2001:db8::1/48")}}}},
			Routes: []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), Protocol: RouteProtocol, Adopt: true}},
		}
		if _, err := Back(have, want); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := Back(State{}, want); err != nil {
			t.Errorf("nothing there: %v", err)
		}
	}
}
