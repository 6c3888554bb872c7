package netcfg

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// twoFamilies is a host whose IPv6 router advertises itself.
func twoFamilies() Surroundings {
	prefix := netip.MustParsePrefix
	s := reachHost()
	s.links = append(s.links, pathLink{name: "eth1"})
	s.addresses = append(s.addresses, pathAddress{link: "eth0", prefix: prefix("2001:db8:1::10/64")}, pathAddress{link: "eth1", prefix: prefix("192.0.2.10/24")})
	s.routes = append(s.routes,
		pathRoute{table: hosts.MainTable, to: prefix("2001:db8:1::/64"), hops: []string{"eth0"}, onLink: true, kernel: true},
		pathRoute{table: hosts.MainTable, to: prefix("::/0"), hops: []string{"eth0"}, advertised: true},
		pathRoute{table: hosts.MainTable, to: prefix("192.0.2.0/24"), hops: []string{"eth1"}, onLink: true, kernel: true})
	s.sysctls = map[string]string{
		"net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.eth0.rp_filter": "0", "net.ipv4.conf.eth1.rp_filter": "2",
		"net.ipv6.conf.all.disable_ipv6": "0", "net.ipv6.conf.all.forwarding": "0",
		"net.ipv6.conf.eth0.forwarding": "0", "net.ipv6.conf.eth0.accept_ra": "1",
	}
	return s
}

func TestReachSysctls(t *testing.T) {
	end := netip.MustParseAddrPort
	ssh6 := Way{Name: "ssh", Inbound: true, Protocol: "tcp", Local: end("[2001:db8:1::10]:22"), Remote: end("[2001:db8:9::9]:50000")}
	neighbour6 := Way{Name: "ssh", Inbound: true, Protocol: "tcp", Local: end("[2001:db8:1::10]:22"), Remote: end("[2001:db8:1::9]:50000")}
	vault6 := Way{Name: "Vault", Protocol: "tcp", Remote: end("[2001:db8:5::80]:8200")}
	ssh := Way{Name: "ssh", Inbound: true, Protocol: "tcp", Local: end("198.51.100.10:22"), Remote: end("203.0.113.9:50000")}
	near := Way{Name: "ssh", Inbound: true, Protocol: "tcp", Local: end("192.0.2.10:22"), Remote: end("192.0.2.9:50000")}
	elsewhere := State{Routes: []Route{{Destination: netip.MustParsePrefix("192.0.2.9/32"), Via: netip.MustParseAddr("198.51.100.1"), Device: "eth0", Protocol: RouteProtocol}}}
	for _, tc := range []struct {
		name    string
		want    State
		sysctls map[string]string
		now     map[string]string // differs from twoFamilies
		way     Way
		kind    CutKind
		says    string
		by      string
	}{
		{"no IPv6 on all links", State{}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, nil, ssh6, CutSysctl, "with net.ipv6.conf.all.disable_ipv6 = 1 the host would no longer have the address 2001:db8:1::10", "net.ipv6.conf.all.disable_ipv6"},
		{"nor a way out", State{}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, nil, vault6, CutSysctl, "with net.ipv6.conf.all.disable_ipv6 = 1 no route would lead to 2001:db8:5::80", "net.ipv6.conf.all.disable_ipv6"},
		{"none on the one link", State{}, map[string]string{"net.ipv6.conf.eth0.disable_ipv6": "1"}, nil, vault6, CutSysctl, "net.ipv6.conf.eth0.disable_ipv6 = 1", "net.ipv6.conf.eth0.disable_ipv6"},
		{"none on another link", State{}, map[string]string{"net.ipv6.conf.eth1.disable_ipv6": "1"}, nil, ssh6, "", "", ""},
		{"none on all but this", State{}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.eth0.disable_ipv6": "0"}, nil, ssh6, "", "", ""},
		{"IPv4 does not mind", State{}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, nil, ssh, "", "", ""},
		{"of all it was said already", State{}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, ssh6, "", "", ""},
		{"one who forwards hears no router", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, nil, ssh6, CutSysctl, "with net.ipv6.conf.all.forwarding = 1 no route would lead to 2001:db8:9::9", "net.ipv6.conf.all.forwarding"},
		{"but the neighbours", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, nil, neighbour6, "", "", ""},
		{"unless told to", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1", "net.ipv6.conf.eth0.accept_ra": "2"}, nil, ssh6, "", "", ""},
		{"or told so before", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, map[string]string{"net.ipv6.conf.eth0.accept_ra": "2"}, ssh6, "", "", ""},
		{"or somebody else listens", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, map[string]string{"net.ipv6.conf.eth0.accept_ra": "0"}, ssh6, "", "", ""},
		{"or it forwards already", State{}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, map[string]string{"net.ipv6.conf.all.forwarding": "1"}, ssh6, "", "", ""},
		{"strict where the way back is the way in", State{}, map[string]string{"net.ipv4.conf.all.rp_filter": "1"}, nil, ssh, "", "", ""},
		{"a route away, where nobody looks", elsewhere, nil, nil, near, "", "", ""},
		{"a route away, where strictness was", elsewhere, nil, map[string]string{"net.ipv4.conf.eth1.rp_filter": "1"}, near, CutReversePath, "strict reverse path filtering (rp_filter) drops what comes from 192.0.2.9 on eth1, since the way back leads by eth0", ""},
		{"a route away, and strictness", elsewhere, map[string]string{"net.ipv4.conf.eth1.rp_filter": "1"}, nil, near, CutSysctl, "with net.ipv4.conf.eth1.rp_filter = 1 strict reverse path filtering", "net.ipv4.conf.eth1.rp_filter"},
		{"the higher value counts", elsewhere, map[string]string{"net.ipv4.conf.all.rp_filter": "1"}, nil, near, "", "", ""},
		{"loose is not strict", elsewhere, map[string]string{"net.ipv4.conf.eth1.rp_filter": "2"}, map[string]string{"net.ipv4.conf.eth1.rp_filter": "1"}, near, "", "", ""},
		{"other sysctls do nothing", State{}, map[string]string{"net.ipv4.conf.all.arp_ignore": "8", "net.ipv6.conf.all.rp_filter": "1", "net.ipv4.ip_forward": "0"}, nil, near, "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := twoFamilies()
			for name, value := range tc.now {
				now.sysctls[name] = value
			}
			cuts := Reach(tc.want, State{}, now.With(tc.sysctls), []Way{tc.way})
			switch {
			case tc.kind == "" && len(cuts) == 0:
			case len(cuts) != 1 || cuts[0].Kind != tc.kind || cuts[0].Already || !strings.Contains(cuts[0].String(), tc.says) || cuts[0].By.Sysctl != tc.by:
				t.Errorf("%+v, want %q %q by %q", cuts, tc.kind, tc.says, tc.by)
			}
		})
	}
}

func TestJudgesSysctl(t *testing.T) {
	for name, want := range map[string]bool{
		"net.ipv4.conf.eth0/100.rp_filter": true, "net.ipv6.conf.all.disable_ipv6": true, "net.ipv6.conf.eth0.accept_ra": true,
		"net.ipv6.conf.all.forwarding": true, "net.ipv4.ip_forward": false, "net.ipv6.conf.eth0.rp_filter": false,
		"net.ipv4.conf.all.forwarding": false, "kernel.pid_max": false, "": false,
	} {
		if got := JudgesSysctl(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
	if link, key, _ := splitConf("net.ipv4.conf.eth0/100.rp_filter"); link != "eth0.100" || key != "rp_filter" {
		t.Errorf("%q, %q", link, key)
	}
	if name := confName(confIPv4, "eth0.100", "rp_filter"); name != "net.ipv4.conf.eth0/100.rp_filter" {
		t.Error(name)
	}
}
